package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/modelfile"
)

// errRefused is the exit of a check that found something it would not read.
var errRefused = errors.New("not everything was read")

func (a *app) importCommand() *cobra.Command {
	var check bool
	var o importOptions
	cmd := &cobra.Command{
		Use: "import FILE...", Short: "Say what is inside a model file that was made elsewhere, or register it",
		Long: "import reads PyTorch files (.pth, .pt: zip and legacy) and safetensors. Nothing in a file is run.\n\n" +
			"With --check it says what is inside: tensors, types, shapes, SHA-256 of the values, and what was refused and why.\n" +
			"The exit code is 1 when a file was refused or read only in part.\n\n" +
			"With --model it registers the weights as a version of that model, with their provenance. The network is inferred from\n" +
			"names and shapes: policy and value may share layers or have their own. A YAML file for --map says what that cannot tell:\n\n" +
			"  layers: {encoder.fc1: trunk.0, pi1: actor.0, pi2: policy, v1: critic.0, v2: value, conv: history}\n" +
			"  ignore: [\"stats.*\"]\n" +
			"  activation: tanh                  # a file does not say it; relu is presumed, tanh for Stable-Baselines3's names\n" +
			"  temporal: {bars: 16, stride: 4}   # of a convolution over the last bars",
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case check && o.model != "":
				return usageError{errors.New("--check only looks, --model registers: say one of them")}
			case check:
				return a.checkModels(args, modelfile.Options{Lenient: o.lenient})
			case o.asIs && (o.member != "" || o.mapping != ""):
				return usageError{errors.New("--as-is keeps every tensor: --member and --map are for a network that is taken apart")}
			case o.model == "" || len(args) > 1:
				return usageError{errors.New("say --check to look at files, or --model NAME to register one")}
			}
			// The file is read first: its problems need no mesh.
			prepared, err := o.prepare(args[0])
			if err != nil {
				return err
			}
			return a.with(func(ctx context.Context, s *session, _ []string) error {
				return s.traced(ctx, "import", func(ctx context.Context) error { return a.register(ctx, s, &o, prepared) })
			})(cmd, nil)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&check, "check", false, "only say what is inside; needs no mesh")
	f.BoolVar(&o.lenient, "lenient", false, "read the tensors of a file that also has objects which are not allowed, and list those")
	f.StringVar(&o.model, "model", "", "register the weights as a version of this model")
	f.StringVar(&o.experiment, "experiment", "", "experiment of the import's run (default imports/MODEL)")
	f.StringVar(&o.mapping, "map", "", "YAML file that names the layers")
	f.StringVar(&o.member, "member", "", "the network of an ensemble to take, as --check names it")
	f.BoolVar(&o.asIs, "as-is", false, "keep every tensor with its name and type")
	f.StringVar(&o.schema, "feature-schema", "", "feature schema that the weights were trained on")
	f.StringVar(&o.window, "evaluation-window", "", "dates behind the metrics, such as 2010-01-04/2014-12-31")
	f.StringToStringVar(&o.notes, "note", nil, "provenance, such as --note author=ana; may be repeated")
	f.StringToStringVar(&o.metrics, "metric", nil, "a known figure, such as --metric validation/sharpe=1.2; may be repeated")
	requestFlag(cmd, &o.request)
	return cmd
}

// importOptions are the flags of a registration.
type importOptions struct {
	model, experiment, mapping, member, schema, window, request string
	asIs, lenient                                               bool
	notes, metrics                                              map[string]string
	figures                                                     map[string]float64
}

// prepare checks the flags and makes a model of the file.
func (o *importOptions) prepare(path string) (*modelfile.Prepared, error) {
	o.figures = map[string]float64{}
	for name, text := range o.metrics {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, usageError{fmt.Errorf("--metric %s=%s is not a number", name, text)}
		}
		o.figures[name] = v
	}
	if o.experiment == "" {
		o.experiment = "imports/" + o.model
	}
	how := modelfile.ImportOptions{Options: modelfile.Options{Lenient: o.lenient}, AsIs: o.asIs, Member: o.member, FeatureSchema: o.schema}
	if o.mapping != "" {
		text, err := os.ReadFile(o.mapping)
		if err != nil {
			return nil, err
		}
		if how.Mapping, err = modelfile.ParseMapping(text); err != nil {
			return nil, fmt.Errorf("%s: %w", o.mapping, err)
		}
	}
	return modelfile.Prepare(path, how)
}

// register announces the files, uploads what the store does not have, and commits.
func (a *app) register(ctx context.Context, s *session, o *importOptions, p *modelfile.Prepared) error {
	ask := &registryv1.BeginImportRequest{
		RequestId: requestID(o.request), ModelName: o.model, Experiment: o.experiment, Provenance: p.Provenance, Metrics: o.figures,
		FeatureSchema: o.schema, EvaluationWindow: o.window,
	}
	for name, text := range o.notes {
		ask.Provenance[name] = text
	}
	contents, names := map[[sha256.Size]byte][]byte{}, map[[sha256.Size]byte]string{}
	for _, f := range p.Files {
		sum := sha256.Sum256(f.Data)
		contents[sum], names[sum] = f.Data, f.Name
		file := &registryv1.CheckpointFile{Path: f.Name, Sha256: sum[:], SizeBytes: int64(len(f.Data))}
		for _, piece := range pieces(f.Data) {
			sum := sha256.Sum256(piece)
			contents[sum], names[sum] = piece, f.Name
			file.Chunks = append(file.Chunks, &registryv1.Chunk{Sha256: sum[:], SizeBytes: int64(len(piece))})
		}
		ask.Files = append(ask.Files, file)
	}
	begun, err := s.Imports.BeginImport(ctx, ask)
	if err != nil {
		return err
	}
	store, err := s.at.Store()
	if err != nil {
		return err
	}
	defer store.CloseIdleConnections()
	for _, u := range begun.GetUploads() {
		if len(u.GetSha256()) != sha256.Size {
			return errors.New("the registry asks for a content without a digest")
		}
		sum := [sha256.Size]byte(u.GetSha256())
		if err := upload(ctx, store, u, contents[sum]); err != nil {
			return fmt.Errorf("uploading %s: %w", names[sum], err)
		}
	}
	answer, err := s.Imports.CommitImport(ctx, &registryv1.CommitImportRequest{ImportId: begun.GetImportId(), RequestId: newRequestID()})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		v := answer.GetVersion()
		if _, err := fmt.Fprintf(w, "%s version %d, checkpoint %s, run %s\n", v.GetModelName(), v.GetVersion(), v.GetCheckpointId(), begun.GetRunId()); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(ask.GetProvenance())) {
			if _, err := fmt.Fprintf(w, "  %s: %s\n", name, ask.GetProvenance()[name]); err != nil {
				return err
			}
		}
		return nil
	})
}

// shareTensorsFrom and mostPieces are the agents' defaults: a job that starts from an import, with its trunk frozen, shares it.
const (
	shareTensorsFrom = 16 << 10
	mostPieces       = 128
)

// pieces are what a model file is best stored as; none means as it is, which is right for a file that is no safetensors.
func pieces(data []byte) (out [][]byte) {
	sizes, err := safetensors.Cut(bytes.NewReader(data), int64(len(data)), shareTensorsFrom, mostPieces)
	if err != nil {
		return nil
	}
	for _, n := range sizes {
		out, data = append(out, data[:n]), data[n:]
	}
	return out
}

// upload sends one content to its presigned URL.
func upload(ctx context.Context, store *http.Client, u *registryv1.TransferURL, data []byte) (err error) {
	request, err := http.NewRequestWithContext(ctx, u.GetMethod(), u.GetUrl(), bytes.NewReader(data))
	if err != nil {
		return errors.New("the registry's address is malformed") // the URL itself is a secret
	}
	for name, value := range u.GetHeaders() {
		request.Header.Set(name, value)
	}
	response, err := store.Do(request)
	var hidden *url.Error
	if errors.As(err, &hidden) {
		return hidden.Err
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return fmt.Errorf("the store answered %s: %s", response.Status, text)
	}
	return nil
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
	var networks []string
	switch {
	case r.Architecture != nil:
		networks = append(networks, fmt.Sprintf("  network: %s\n", r.Architecture))
	case r.Unclear != "":
		networks = append(networks, fmt.Sprintf("  no network inferred: %s\n", r.Unclear))
	}
	for _, m := range r.Members {
		networks = append(networks, fmt.Sprintf("  member %s: %s\n", m.Name, m.Architecture))
	}
	_, err := fmt.Fprintln(w, strings.Join(networks, ""))
	return err
}
