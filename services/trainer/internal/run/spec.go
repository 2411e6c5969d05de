package run

import (
	"time"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
)

// Native is what a job asks of the built-in learner, in the trainer's own terms.
// Zero values mean the documented default.
type Native struct {
	Specialist market.Regime
	Symbol     string
	Timeframe  string
	Reward     reward.Function
	Seed       int64
	MaxEpochs  int
	Patience   int
	Costs      market.Costs
	Split      market.SplitPlan
	Learner    Hyperparameters
	// WarmStart is the checkpoint whose trunk the run starts from, "" for none;
	// FreezeTrunk keeps that trunk as it is.
	WarmStart   string
	FreezeTrunk bool
}

// Hyperparameters of the learner. Zero means the default.
type Hyperparameters struct {
	LearningRate, Discount, GAELambda, ClipRange float64
	EntropyCoefficient, ValueCoefficient         float64
	MaxGradientNorm                              float64
	Environments, RolloutSteps, UpdateEpochs     int
	HiddenSizes                                  []int
	// Temporal asks for a convolution over the last bars; nil means none.
	Temporal     *Temporal
	Schedule     Schedule
	WarmupEpochs int
	// FinalShare is the share of the learning rate that is left at the end.
	FinalShare float64
}

// Temporal shapes a convolution; zero means the default.
type Temporal struct{ Bars, Width, Stride, Channels int }

// Command is a program to run.
type Command struct {
	Argv             []string
	Env              map[string]string
	WorkingDirectory string
}

// Assignment is one attempt: everything the agent told about it.
type Assignment struct {
	JobID, DisplayName, Experiment string
	Attempt                        int
	Fence                          uint64
	Native                         *Native
	Command                        *Command
	DeviceIDs                      []string
	ReservedBytes                  []int64
	BatchSize                      int
	GradientAccumulation           int
	LearningRateScale              float64
	DataServiceURL                 string
	CacheDir                       string
	WorkDir                        string
	// RestoreDir holds the files of the checkpoint to start from; "" means none.
	RestoreDir  string
	RestoreStep int64
	RestoreID   string
	// WarmStartDir holds the files of the checkpoint to take the trunk from.
	WarmStartDir string
	Threads      int
}

// Metric is one measured value.
type Metric struct {
	Key   string
	Value float64
	Step  int64
	Time  time.Time
}

// Progress is the latest state of an attempt, for people and for the scheduler.
type Progress struct {
	Epoch, TotalEpochs int
	Step               int64
	Reward             float64
	Objective          float64
	StepsPerSecond     float64
	Remaining          time.Duration
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	Succeeded Outcome = iota + 1
	Failed
	Stopped
)

// Class says what went wrong. The names are those of the contract.
type Class string

// The classes that a trainer itself can report.
const (
	ClassNone             Class = ""
	ClassDeviceOOM        Class = "DEVICE_OOM_OWN"
	ClassHostOOM          Class = "HOST_OOM"
	ClassCrash            Class = "CRASH"
	ClassDataUnavailable  Class = "DATA_UNAVAILABLE"
	ClassDiverged         Class = "DIVERGED"
	ClassBadConfiguration Class = "BAD_CONFIGURATION"
)

// Ending is the last word of an attempt.
type Ending struct {
	Outcome  Outcome
	Class    Class
	Message  string
	Problems []string
}

// Failure is an Ending with that class and message.
func Failure(class Class, message string, problems ...string) Ending {
	return Ending{Outcome: Failed, Class: class, Message: message, Problems: problems}
}

// BadConfiguration is the Ending for inputs that cannot run, with all problems.
func BadConfiguration(problems []market.Problem) Ending {
	e := Ending{Outcome: Failed, Class: ClassBadConfiguration}
	for _, p := range problems {
		e.Problems = append(e.Problems, p.String())
	}
	e.Message = "the job cannot run"
	if len(e.Problems) > 0 {
		e.Message += ": " + e.Problems[0]
	}
	return e
}

// Checkpoint describes a checkpoint whose files are on disk.
type Checkpoint struct {
	Step    int64
	Metrics map[string]float64
	// Resumable is false for weights without optimizer state.
	Resumable     bool
	FeatureSchema string
	DataVersion   string
	// EvaluationWindow is "2010-01-04/2014-12-31".
	EvaluationWindow string
	Trades           int64
}

// Order is what the agent wants of a running attempt.
type Order struct {
	// Stop asks for a checkpoint and the end; Reason is for people, Grace is the
	// time until the process group is killed.
	Stop   bool
	Reason string
	Grace  time.Duration
	// CheckpointNow asks for a checkpoint at the next step; taking the order
	// clears it.
	CheckpointNow bool
	// Paused asks to hold still.
	Paused bool
}
