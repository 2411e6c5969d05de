package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultrathink-pilot/trainyard/tools/internal/modelfile"
)

// errRefused is the exit of a check that found something it would not read.
var errRefused = errors.New("not everything was read")

func (a *app) importCommand() *cobra.Command {
	var check, lenient bool
	cmd := &cobra.Command{
		Use: "import FILE...", Short: "Say what is inside a model file that was made elsewhere, or register it",
		Long: "import reads PyTorch files (.pth, .pt: zip and legacy) and safetensors. Nothing in a file is run.\n" +
			"With --check it says what is inside: tensors, types, shapes, SHA-256 of the values, and what was refused and why.\n" +
			"The exit code is 1 when a file was refused or read only in part.",
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if !check {
				return usageError{errors.New("say --check to look at the files")}
			}
			return a.checkModels(args, modelfile.Options{Lenient: lenient})
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "only say what is inside; needs no mesh")
	cmd.Flags().BoolVar(&lenient, "lenient", false, "read the tensors of a file that also has objects which are not allowed, and list those")
	return cmd
}

// checkModels describes every file, also after one that was refused.
func (a *app) checkModels(paths []string, o modelfile.Options) error {
	reports := make([]*modelfile.Report, len(paths))
	read := 0
	for i, path := range paths {
		reports[i] = modelfile.Check(path, o)
		if reports[i].OK() {
			read++
		}
		if a.output == "table" {
			if err := writeContents(a.out, reports[i]); err != nil {
				return err
			}
		}
	}
	var err error
	if a.output == "json" {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		err = e.Encode(map[string]any{"files": reports, "read": read, "refused": len(paths) - read})
	} else if len(paths) > 1 {
		_, err = fmt.Fprintf(a.out, "%d files: %d read, %d refused or read in part\n", len(paths), read, len(paths)-read)
	}
	if err == nil && read < len(paths) {
		return errRefused
	}
	return err
}

// writeContents is the check for people.
func writeContents(w io.Writer, r *modelfile.Report) error {
	if r.Error != "" {
		_, err := fmt.Fprintf(w, "%s: refused: %s\n\n", r.File, r.Error)
		return err
	}
	if _, err := fmt.Fprintf(w, "%s: %s, %s, %d tensors\n", r.File, r.Format, bytesText(r.Size), len(r.Tensors)); err != nil {
		return err
	}
	t := newTable("  TENSOR", "TYPE", "SHAPE", "BYTES", "SHA-256 OF THE VALUES").numbers(3)
	for _, x := range r.Tensors {
		note := x.SHA256
		if x.NotFinite > 0 {
			note += fmt.Sprintf("  %d values are NaN or infinite", x.NotFinite)
		}
		t.add("  "+x.Name, strings.ToLower(x.DType), fmt.Sprint(x.Shape), fmt.Sprint(x.Bytes), note)
	}
	if err := t.write(w); err != nil {
		return err
	}
	const most = 20
	for i, v := range r.Values {
		if i == most {
			if _, err := fmt.Fprintf(w, "  and %d more values (-o json has them)\n", len(r.Values)-most); err != nil {
				return err
			}
			break
		}
		if _, err := fmt.Fprintf(w, "  %s = %.200s\n", v.Name, fmt.Sprint(v.Value)); err != nil {
			return err
		}
	}
	for _, text := range r.Refused {
		if _, err := fmt.Fprintf(w, "  refused: %s\n", text); err != nil {
			return err
		}
	}
	if n := r.Architecture; n != nil {
		if _, err := fmt.Fprintf(w, "  network: %d inputs, hidden %v, %d actions\n", n.Inputs, n.Hidden, n.Actions); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}
