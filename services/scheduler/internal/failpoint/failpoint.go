// Package failpoint ends the process at a chosen point, so that a crash can be
// put exactly before or after anything that leaves the process: a commit, an
// answer. In a build without the tag "failpoints" it is nothing.
//
// A process built with the tag reads TRAINYARD_FAILPOINT=NAME:N and kills itself
// with SIGKILL when it reaches that point for the N-th time.
package failpoint

// Point is a place at which a process can be made to die.
type Point string

// The points, in the order in which a job meets them.
const (
	AfterLead     Point = "after-lead"     // the lead is ours, nothing is loaded
	AfterLoad     Point = "after-load"     // loaded, nothing is answered
	Received      Point = "received"       // a submit has arrived
	BeforeCommit  Point = "before-commit"  // worked out, not sent to the database
	AfterCommit   Point = "after-commit"   // durable, nobody knows
	BeforeAnswer  Point = "before-answer"  // a submit's answer is ready to go
	AfterFences   Point = "after-fences"   // fences are drawn, no placement uses them
	ReportArrived Point = "report-arrived" // a host's report has arrived
	BeforeOrders  Point = "before-orders"  // a host's orders are ready to go
)

// All lists the points.
var All = []Point{AfterLead, AfterLoad, Received, BeforeCommit, AfterCommit, BeforeAnswer, AfterFences, ReportArrived, BeforeOrders}
