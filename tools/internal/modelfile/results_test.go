//go:build results

package modelfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/pth"
)

// torchFile makes a state dictionary as torch writes it: count tensors of 4 MiB.
func torchFile(t *testing.T, count int) []byte {
	t.Helper()
	var pickle, file bytes.Buffer
	text := func(s string) {
		pickle.WriteByte('X')
		_ = binary.Write(&pickle, binary.LittleEndian, uint32(len(s)))
		pickle.WriteString(s)
	}
	number := func(v uint32) {
		pickle.WriteByte('J')
		_ = binary.Write(&pickle, binary.LittleEndian, v)
	}
	z := zip.NewWriter(&file)
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i*i>>7) & 0x3f
	}
	pickle.WriteString("\x80\x02}(")
	for i := range count {
		text(fmt.Sprintf("layer.%d.weight", i))
		pickle.WriteString("ctorch._utils\n_rebuild_tensor_v2\n((")
		text("storage")
		pickle.WriteString("ctorch\nFloatStorage\n")
		text(fmt.Sprint(i))
		text("cpu")
		number(1 << 20)
		pickle.WriteString("tQK\x00")
		number(1024)
		number(1024)
		pickle.WriteString("\x86")
		number(1024)
		pickle.WriteString("K\x01\x86\x89Nt")
		pickle.WriteString("R")
	}
	pickle.WriteString("u.")
	add := func(name string, b []byte) {
		h := &zip.FileHeader{Name: "archive/" + name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(b), CompressedSize64: uint64(len(b)), UncompressedSize64: uint64(len(b))}
		w, err := z.CreateRaw(h)
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("data.pkl", pickle.Bytes())
	for i := range count {
		add(fmt.Sprintf("data/%d", i), data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// processorTime returns the processor seconds of this process: on a busy machine
// they say more than the clock.
func processorTime(t *testing.T) float64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// TestResultsReader measures the reader of torch files and the whole check.
func TestResultsReader(t *testing.T) {
	b := torchFile(t, 64)
	path := write(t, "big.pth", b)
	size := float64(len(b)) / 1e6
	rate := func(run func() error) []float64 {
		var out []float64
		for range 5 {
			began := processorTime(t)
			for range 3 {
				if err := run(); err != nil {
					t.Fatal(err)
				}
			}
			out = append(out, 3*size/(processorTime(t)-began))
		}
		return out
	}
	read := func(share bool) func() error {
		return func() error {
			f, err := pth.Read(b, pth.Options{Share: share})
			if err == nil && len(f.Tensors) != 64 {
				err = fmt.Errorf("%d tensors", len(f.Tensors))
			}
			return err
		}
	}
	benchtable.Section{
		Page: "trainer.md", Title: "Reading .pth files", Command: "make bench ONLY=tools/internal/modelfile RESULTS=TestResultsReader",
		Intro: "A state dictionary of 64 tensors of 4 MiB in the zip format, from the page cache, one thread, per processor second. Checksums are verified in all three.",
		Rows: []benchtable.Row{
			{What: "read, tensors copied", Asked: ">= 500 MB/s", Ours: benchtable.Of("MB/s", rate(read(false))...)},
			{What: "read, tensors alias the file", Asked: ">= 500 MB/s", Ours: benchtable.Of("MB/s", rate(read(true))...)},
			{What: "trainyard import --check: also SHA-256 of every tensor and a count of NaN", Asked: ">= 500 MB/s", Ours: benchtable.Of("MB/s", rate(func() error {
				if r := Check(path, Options{}); !r.OK() || len(r.Tensors) != 64 {
					return fmt.Errorf("%s", r.Error)
				}
				return nil
			})...)},
		},
	}.Write(t)
}
