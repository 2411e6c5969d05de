// Command devcerts issues certificates of a development authority: one per argument, into one directory. compose runs it
// before the services; a cluster brings certificates from its own authority instead. ROLE/NAME is an identity of ours,
// host/NAME a server that has none, such as the S3 server.
//
//	devcerts --dir /tls scheduler/scheduler registry/registry agent/host-1 person/me host/s3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
)

func main() {
	lifecycle.Main(func(context.Context) error {
		flags := flag.NewFlagSet("devcerts", flag.ContinueOnError)
		dir := flags.String("dir", "", "directory of the authority and of what it issues; made when missing")
		if err := flags.Parse(os.Args[1:]); err != nil {
			return err
		}
		return issue(*dir, flags.Args())
	})
}

// issue reads every argument before it writes anything.
func issue(dir string, names []string) error {
	if dir == "" || len(names) == 0 {
		return errors.New("usage: devcerts --dir DIRECTORY (ROLE/NAME | host/NAME) [more]")
	}
	steps := make([]func(*identity.Authority) (identity.Files, error), 0, len(names))
	for _, argument := range names {
		role, name, found := strings.Cut(argument, "/")
		switch {
		case found && role == "host":
			steps = append(steps, func(a *identity.Authority) (identity.Files, error) { return a.IssueHost(name) })
		case found && identity.Role(role).Valid():
			steps = append(steps, func(a *identity.Authority) (identity.Files, error) { return a.Issue(identity.Role(role), name) })
		default:
			return fmt.Errorf("%q is neither host/NAME nor ROLE/NAME; the roles are %v", argument, identity.Roles())
		}
	}
	authority, err := identity.NewAuthority(dir)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if _, err := step(authority); err != nil {
			return err
		}
	}
	return nil
}
