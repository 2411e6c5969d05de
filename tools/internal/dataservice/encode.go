package dataservice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/feature"
)

// Media types of the features answer.
const (
	mediaArrow = "application/vnd.apache.arrow.file"
	mediaJSON  = "application/json"
)

// arrowBatchRows keeps a record batch under the readers' 256 MiB body limit.
const arrowBatchRows = 1 << 20

// tableJSON is the JSON form of a table: one array per column, rows of features.
type tableJSON struct {
	Symbol        string      `json:"symbol"`
	Timeframe     string      `json:"timeframe"`
	SchemaVersion string      `json:"schema_version"`
	FeatureNames  []string    `json:"feature_names"`
	Digest        string      `json:"digest"`
	Bars          int         `json:"bars"`
	Dates         []string    `json:"dates"`
	Close         []float64   `json:"close"`
	Regimes       []string    `json:"regimes"`
	Features      [][]float32 `json:"features"`
}

func encodeJSON(symbol, timeframe, digest string, t *feature.Table) ([]byte, error) {
	w := len(feature.Names())
	out := tableJSON{
		Symbol: symbol, Timeframe: timeframe, SchemaVersion: feature.SchemaVersion, FeatureNames: feature.Names(),
		Digest: digest, Bars: t.Bars(), Close: t.Close, Regimes: t.Regimes,
		Dates: make([]string, t.Bars()), Features: make([][]float32, t.Bars()),
	}
	for i := range t.Bars() {
		out.Dates[i] = time.Unix(t.Dates[i], 0).UTC().Format(time.RFC3339)
		out.Features[i] = t.Features[i*w : (i+1)*w]
	}
	return json.Marshal(out)
}

// encodeArrow writes an Arrow IPC file with the columns date (timestamp in
// seconds, UTC), close (float64), regime (uint8, an index into the metadata's
// "regimes") and features (one fixed-size list of float32, row-major: gathering
// random rows costs a sixth of what one column per feature costs). The metadata
// has symbol, timeframe, schema_version, digest, and feature_names and regimes
// as JSON arrays.
func encodeArrow(symbol, timeframe, digest string, t *feature.Table) ([]byte, error) {
	names, err := json.Marshal(feature.Names())
	if err != nil {
		return nil, err
	}
	regimes, err := json.Marshal(regimeCodes)
	if err != nil {
		return nil, err
	}
	width := len(feature.Names())
	metadata := arrow.MetadataFrom(map[string]string{
		"symbol": symbol, "timeframe": timeframe, "schema_version": feature.SchemaVersion, "digest": digest,
		"feature_names": string(names), "regimes": string(regimes),
	})
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "date", Type: &arrow.TimestampType{Unit: arrow.Second, TimeZone: "UTC"}},
		{Name: "close", Type: arrow.PrimitiveTypes.Float64},
		{Name: "regime", Type: arrow.PrimitiveTypes.Uint8},
		{Name: "features", Type: arrow.FixedSizeListOfNonNullable(int32(width), arrow.PrimitiveTypes.Float32)},
	}, &metadata)

	var out bytes.Buffer
	writer, err := ipc.NewFileWriter(&out, ipc.WithSchema(schema), ipc.WithAllocator(memory.DefaultAllocator))
	if err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	for lo := 0; lo < t.Bars(); lo += arrowBatchRows {
		if err := writeBatch(writer, schema, t.Slice(lo, min(lo+arrowBatchRows, t.Bars()))); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	return out.Bytes(), nil
}

func writeBatch(writer *ipc.FileWriter, schema *arrow.Schema, t *feature.Table) error {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for i, d := range t.Dates {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(d))
		b.Field(2).(*array.Uint8Builder).Append(regimeCode(t.Regimes[i]))
	}
	b.Field(1).(*array.Float64Builder).AppendValues(t.Close, nil)
	list := b.Field(3).(*array.FixedSizeListBuilder)
	for range t.Dates {
		list.Append(true)
	}
	list.ValueBuilder().(*array.Float32Builder).AppendValues(t.Features, nil)
	record := b.NewRecordBatch()
	defer record.Release()
	if err := writer.Write(record); err != nil {
		return fmt.Errorf("arrow: %w", err)
	}
	return nil
}
