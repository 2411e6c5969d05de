package tracefile

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxFileBytes bounds one generation; the generation before stays beside it as
// ".1", so disk use is bounded by twice this.
const maxFileBytes = 128 << 20

// maxLineBytes bounds a line that the reader accepts: one export.
const maxLineBytes = 64 << 20

// writer appends exports to a file.
type writer struct {
	path  string
	limit int64

	mu   sync.Mutex
	file *os.File
	size int64
}

func openWriter(path string) (*writer, error) {
	w := &writer{path: path, limit: maxFileBytes}
	return w, w.open()
}

func (w *writer) open() error {
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	w.file, w.size = file, info.Size()
	return nil
}

func (w *writer) write(export *collectorv1.ExportTraceServiceRequest) error {
	line, err := marshal(export)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return os.ErrClosed
	}
	if w.size > 0 && w.size+int64(len(line)) > w.limit {
		err := errors.Join(w.file.Close(), os.Rename(w.path, w.path+".1"), w.open())
		if err != nil {
			return err
		}
	}
	n, err := w.file.Write(line)
	w.size += int64(n)
	return err
}

func (w *writer) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// marshal gives OTLP/JSON, which is protobuf's JSON except that ids are hex and
// enums are numbers.
func marshal(export *collectorv1.ExportTraceServiceRequest) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(export)
	if err != nil {
		return nil, err
	}
	data, err = recodeIDs(data, func(text string) (string, error) {
		id, err := base64.StdEncoding.DecodeString(text)
		return hex.EncodeToString(id), err
	})
	return append(data, '\n'), err
}

func unmarshal(line []byte) (*collectorv1.ExportTraceServiceRequest, error) {
	data, err := recodeIDs(line, func(text string) (string, error) {
		id, err := hex.DecodeString(text)
		return base64.StdEncoding.EncodeToString(id), err
	})
	if err != nil {
		return nil, err
	}
	export := &collectorv1.ExportTraceServiceRequest{}
	return export, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, export)
}

func recodeIDs(data []byte, recode func(string) (string, error)) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // 64-bit times do not survive float64.
	var document any
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	if err := walkIDs(document, recode); err != nil {
		return nil, err
	}
	return json.Marshal(document)
}

func walkIDs(v any, recode func(string) (string, error)) error {
	switch v := v.(type) {
	case map[string]any:
		for name, child := range v {
			text, isText := child.(string)
			if isText && (name == "traceId" || name == "spanId" || name == "parentSpanId") {
				id, err := recode(text)
				if err != nil {
					return fmt.Errorf("%s %q: %w", name, text, err)
				}
				v[name] = id
				continue
			}
			if err := walkIDs(child, recode); err != nil {
				return err
			}
		}
	case []any:
		for _, child := range v {
			if err := walkIDs(child, recode); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read returns every span of a trace from a file and the generation before it.
// A file that does not exist yet has no spans; a last line that is still being
// written is passed over.
func Read(path, traceID string) ([]Span, error) {
	var out []Span
	for _, name := range []string{path + ".1", path} {
		spans, err := readFile(name, traceID)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		out = append(out, spans...)
	}
	return out, nil
}

func readFile(path, traceID string) (_ []Span, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var out []Span
	reader := bufio.NewReaderSize(file, 1<<20)
	for number := 1; ; number++ {
		line, err := readLine(reader)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, number, err)
		}
		if !bytes.Contains(line, []byte(traceID)) {
			continue
		}
		export, err := unmarshal(line)
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, number, err)
		}
		out = appendSpans(out, export, traceID)
	}
}

// readLine returns io.EOF for a last line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) > maxLineBytes {
			return nil, fmt.Errorf("longer than %d bytes", maxLineBytes)
		}
	}
}

func appendSpans(out []Span, export *collectorv1.ExportTraceServiceRequest, traceID string) []Span {
	for _, resource := range export.GetResourceSpans() {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				if hex.EncodeToString(s.GetTraceId()) == traceID {
					out = append(out, fromProto(service, s))
				}
			}
		}
	}
	return out
}

func fromProto(service string, s *tracev1.Span) Span {
	span := Span{
		TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()), ParentID: hex.EncodeToString(s.GetParentSpanId()),
		Name: s.GetName(), Service: service,
		Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Attributes: map[string]string{},
		Failed:     s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
	}
	for _, a := range s.GetAttributes() {
		span.Attributes[a.GetKey()] = text(a.GetValue())
	}
	for _, l := range s.GetLinks() {
		span.Links = append(span.Links, hex.EncodeToString(l.GetTraceId())+"/"+hex.EncodeToString(l.GetSpanId()))
	}
	return span
}

func text(v *commonv1.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return v.StringValue
	case *commonv1.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *commonv1.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *commonv1.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}
