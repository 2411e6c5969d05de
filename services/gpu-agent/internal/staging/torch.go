package staging

import (
	"bytes"
	"errors"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// torchFile checks a file of torch.save: nothing in it may run, every tensor must
// lie within the file and hold finite values. The file is mapped, not read, and
// tensors alias it: a checkpoint of gigabytes costs the agent no memory.
func torchFile(c disk.Content) (err error) {
	raw, release, err := disk.Map(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	file, err := pth.Read(raw, pth.Options{Share: true, Limit: c.Size() + 64<<20})
	if err != nil {
		return err
	}
	if len(file.Tensors) == 0 {
		return errors.New("holds no tensor")
	}
	for _, t := range file.Tensors {
		if err := finite(bytes.NewReader(t.Data), tensor{Name: t.Name, DType: t.DType}); err != nil {
			return err
		}
	}
	return nil
}
