package cli

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/tools/internal/jobfile"
)

// friendly adds what a person can do to a service's error.
func friendly(err error) error {
	e := rpcerr.FromError(err)
	if e == nil {
		return err
	}
	switch e.Code() {
	case codes.Unavailable:
		return fmt.Errorf("%w\n(is the mesh still running? `trainyard up` says what each part does)", err)
	case codes.ResourceExhausted:
		if d := e.Retry(); d > 0 {
			return fmt.Errorf("%w\n(try again in %s)", err, d)
		}
	}
	return err
}

// problemsError is everything wrong with job files.
type problemsError struct {
	files []fileProblems
}

type fileProblems struct {
	name     string
	problems []jobfile.Problem
}

func (e *problemsError) Error() string {
	count := 0
	var b strings.Builder
	for _, f := range e.files {
		for _, p := range f.problems {
			count++
			b.WriteString("\n  " + f.name)
			if p.Line > 0 {
				fmt.Fprintf(&b, ":%d", p.Line)
			}
			if p.Path != "" {
				b.WriteString(": " + p.Path)
			}
			b.WriteString(": " + p.Description)
		}
	}
	noun := "problems"
	if count == 1 {
		noun = "problem"
	}
	return fmt.Sprintf("%d %s, nothing was submitted:%s", count, noun, b.String())
}

// errJobsFailed is the exit of a command that worked while its jobs did not.
var errJobsFailed = errors.New("not every job succeeded")
