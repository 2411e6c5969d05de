package launch

import (
	"fmt"
	"os"
)

// SuperviseCommand is the first argument with which a program that links this package
// executes itself to watch over one trainer; the second is the attempt's directory.
const SuperviseCommand = "supervise"

// The supervisor begins here and not in main: what the agent's other packages prepare
// before main (the rules of every message, for one) takes longer than the start of a
// trainer, and each supervisor would carry it in its memory.
func init() {
	if len(os.Args) != 3 || os.Args[1] != SuperviseCommand {
		return
	}
	if err := supervise(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[0], SuperviseCommand+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}
