package modelfile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// The files of an imported model; the trainer reads the same names.
const (
	modelFile = "model.safetensors"
	metaFile  = "meta.json"
)

// Meta is metaFile's content: enough to build the network again.
type Meta struct {
	Format string `json:"format"` // "trainyard-import/1"
	// Network is nil when the tensors were kept as they are.
	Network       *Architecture `json:"network,omitempty"`
	FeatureSchema string        `json:"feature_schema"`
	Source        Source        `json:"source"`
}

// Source is where the weights come from.
type Source struct {
	File    string   `json:"file"`
	Format  string   `json:"format"`
	SHA256  string   `json:"sha256"`
	Size    int64    `json:"size_bytes"`
	LeftOut []string `json:"left_out,omitempty"`
}

// ImportOptions say how to take a file.
type ImportOptions struct {
	Options
	// Mapping names layers; nil infers them.
	Mapping *Mapping
	// Member is the network of an ensemble to take.
	Member string
	// AsIs keeps every tensor with its name and type: a model that is no shared
	// trunk with a policy and a value.
	AsIs          bool
	FeatureSchema string
}

// Content is one file to store.
type Content struct {
	Name string
	Data []byte
}

// Prepared is a model that is ready to be registered.
type Prepared struct {
	Files      []Content
	Network    *Architecture
	Provenance map[string]string
}

// Prepare reads a file and makes a model of it.
func Prepare(path string, o ImportOptions) (*Prepared, error) {
	var out *Prepared
	err := open(path, func(b []byte) error {
		m, err := parse(filepath.Base(path), b, o.Options)
		if err != nil {
			return err
		}
		out, err = m.prepare(path, b, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func (m *model) prepare(path string, b []byte, o ImportOptions) (*Prepared, error) {
	sum := sha256.Sum256(b)
	source := Source{File: filepath.Base(path), Format: m.format, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b)), LeftOut: m.refused}
	p := &Prepared{Provenance: map[string]string{
		"file": source.File, "format": source.Format, "sha256": source.SHA256, "size_bytes": strconv.FormatInt(source.Size, 10), "tool": "trainyard import",
	}}
	tensors := m.tensors
	if o.AsIs {
		if len(tensors) == 0 {
			return nil, errors.New("it has no tensors")
		}
		for i := range tensors {
			if n := notFinite(tensors[i].DType, tensors[i].Data); n > 0 {
				return nil, fmt.Errorf("the tensor %q has %d values that are NaN or infinite", tensors[i].Name, n)
			}
		}
	} else {
		var err error
		if o.Member != "" {
			if tensors, err = member(tensors, o.Member, o.Mapping); err != nil {
				return nil, err
			}
			p.Provenance["member"] = o.Member
		} else if all := Members(tensors, o.Mapping); len(all) > 0 {
			return nil, fmt.Errorf("%s: say which one with --member, or keep all of them with --as-is", memberNames(all))
		}
		network, err := Infer(tensors, o.Mapping)
		if err != nil {
			return nil, fmt.Errorf("%w (name the layers in a file for --map, or keep everything as it is with --as-is)", err)
		}
		if tensors, err = network.Convert(); err != nil {
			return nil, err
		}
		p.Network = network
		p.Provenance["network"] = network.String()
		var layers []string
		for _, l := range network.Layers {
			layers = append(layers, l.From+" -> "+l.To)
		}
		p.Provenance["layers"] = short(strings.Join(layers, ", "))
		source.LeftOut = append(source.LeftOut, network.Ignored...)
	}
	if len(source.LeftOut) > 0 {
		p.Provenance["left_out"] = short(strings.Join(source.LeftOut, "; "))
	}
	weights, err := safetensors.Encode(tensors, map[string]string{"format": "pt"})
	if err != nil {
		return nil, err
	}
	meta, err := json.MarshalIndent(Meta{Format: "trainyard-import/1", Network: p.Network, FeatureSchema: o.FeatureSchema, Source: source}, "", "  ")
	if err != nil {
		return nil, err
	}
	p.Files = []Content{{modelFile, weights}, {metaFile, append(meta, '\n')}}
	return p, nil
}

// short keeps a tag within the contract's bound.
func short(text string) string {
	const most = 4000
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " ..."
}
