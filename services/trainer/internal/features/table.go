package features

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// columnNames are the columns of the Arrow file, in order.
var columnNames = []string{"date", "close", "regime", "features"}

// decodeArrow reads a table from an Arrow file in memory. With one record batch
// the closes and features alias data. The bytes must be verified before: the
// reader survives few kinds of damage.
func decodeArrow(data []byte) (t *market.Table, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("not a readable Arrow file: %v", p)
		}
	}()
	r, err := ipc.NewMappedFileReader(data)
	if err != nil {
		return nil, fmt.Errorf("not an Arrow file: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	t, regimes, err := header(r.Schema())
	if err != nil {
		return nil, err
	}
	for i := range r.NumRecords() {
		record, err := r.RecordBatchAt(i)
		if err != nil {
			return nil, fmt.Errorf("arrow batch %d: %w", i, err)
		}
		// Not released: the table aliases its buffers, which are the mapped file.
		if err := appendRecord(t, record, regimes, r.NumRecords() == 1); err != nil {
			return nil, fmt.Errorf("arrow batch %d: %w", i, err)
		}
	}
	return t, nil
}

// header reads the schema: a table without rows, and the regime of each code.
func header(schema *arrow.Schema) (*market.Table, []market.Regime, error) {
	metadata := schema.Metadata()
	value := func(name string) string { v, _ := metadata.GetValue(name); return v }
	t := &market.Table{
		Symbol: value("symbol"), Timeframe: value("timeframe"), SchemaVersion: value("schema_version"), Digest: value("digest"),
	}
	var names []string
	if err := json.Unmarshal([]byte(value("feature_names")), &t.FeatureNames); err != nil {
		return nil, nil, fmt.Errorf("feature_names of the schema: %w", err)
	}
	if err := json.Unmarshal([]byte(value("regimes")), &names); err != nil {
		return nil, nil, fmt.Errorf("regimes of the schema: %w", err)
	}
	regimes := make([]market.Regime, len(names))
	for i, name := range names {
		regime, ok := market.ParseRegime(name)
		if !ok {
			return nil, nil, fmt.Errorf("unknown regime %q", name)
		}
		regimes[i] = regime
	}
	fields := schema.Fields()
	if len(fields) != len(columnNames) {
		return nil, nil, fmt.Errorf("%d columns, not %s", len(fields), strings.Join(columnNames, ", "))
	}
	for i, name := range columnNames {
		if fields[i].Name != name {
			return nil, nil, fmt.Errorf("column %d is %q, not %q", i, fields[i].Name, name)
		}
	}
	return t, regimes, nil
}

func appendRecord(t *market.Table, record arrow.RecordBatch, regimes []market.Regime, alias bool) error {
	for i, name := range columnNames {
		if n := record.Column(i).NullN(); n > 0 {
			return fmt.Errorf("column %q has %d missing values", name, n)
		}
	}
	dates, ok1 := record.Column(0).(*array.Timestamp)
	closes, ok2 := record.Column(1).(*array.Float64)
	codes, ok3 := record.Column(2).(*array.Uint8)
	lists, ok4 := record.Column(3).(*array.FixedSizeList)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return fmt.Errorf("the columns are %v, not timestamp, float64, uint8, fixed_size_list", record.Schema().Fields())
	}
	if unit := dates.DataType().(*arrow.TimestampType).Unit; unit != arrow.Second {
		return fmt.Errorf("dates are in %s, not in seconds", unit)
	}
	values, ok := lists.ListValues().(*array.Float32)
	if width := lists.DataType().(*arrow.FixedSizeListType).Len(); !ok || int(width) != len(t.FeatureNames) {
		return fmt.Errorf("rows of %d %s values for %d features", width, lists.ListValues().DataType(), len(t.FeatureNames))
	}
	if values.NullN() > 0 {
		return fmt.Errorf("%d missing features", values.NullN())
	}
	for _, d := range dates.TimestampValues() {
		t.Dates = append(t.Dates, int64(d))
	}
	for i, code := range codes.Uint8Values() {
		if int(code) >= len(regimes) {
			return fmt.Errorf("regime %d of row %d is not in the schema", code, i)
		}
		t.Regimes = append(t.Regimes, regimes[code])
	}
	if alias {
		t.Close, t.Features = closes.Float64Values(), values.Float32Values()
		return nil
	}
	t.Close = append(t.Close, closes.Float64Values()...)
	t.Features = append(t.Features, values.Float32Values()...)
	return nil
}

// arrowFromJSON converts the JSON form, so that every cached table can be mapped.
func arrowFromJSON(body []byte) ([]byte, error) {
	var wire struct {
		Symbol        string      `json:"symbol"`
		Timeframe     string      `json:"timeframe"`
		SchemaVersion string      `json:"schema_version"`
		FeatureNames  []string    `json:"feature_names"`
		Digest        string      `json:"digest"`
		Dates         []time.Time `json:"dates"`
		Close         []float64   `json:"close"`
		Regimes       []string    `json:"regimes"`
		Features      [][]float32 `json:"features"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return nil, fmt.Errorf("the JSON table: %w", err)
	}
	n, width := len(wire.Dates), len(wire.FeatureNames)
	if len(wire.Close) != n || len(wire.Regimes) != n || len(wire.Features) != n || n == 0 || width == 0 {
		return nil, fmt.Errorf("the JSON table has %d dates, %d closes, %d regimes, %d rows of %d features",
			n, len(wire.Close), len(wire.Regimes), len(wire.Features), width)
	}
	t := &market.Table{
		Symbol: wire.Symbol, Timeframe: wire.Timeframe, SchemaVersion: wire.SchemaVersion, FeatureNames: wire.FeatureNames,
		Digest: wire.Digest, Close: wire.Close, Dates: make([]int64, n), Regimes: make([]market.Regime, n),
		Features: make([]float32, 0, n*width),
	}
	for i, row := range wire.Features {
		if len(row) != width {
			return nil, fmt.Errorf("row %d of the JSON table has %d features, not %d", i, len(row), width)
		}
		t.Features = append(t.Features, row...)
		t.Dates[i] = wire.Dates[i].Unix()
		regime, ok := market.ParseRegime(wire.Regimes[i])
		if !ok {
			return nil, fmt.Errorf("row %d of the JSON table has the unknown regime %q", i, wire.Regimes[i])
		}
		t.Regimes[i] = regime
	}
	return encodeArrow(t)
}

// regimeNames number the regimes of the files made here.
var regimeNames = []market.Regime{market.RegimeUnknown, market.RegimeBull, market.RegimeBear, market.RegimeSideways}

// encodeArrow writes one record batch, so that readers alias it.
func encodeArrow(t *market.Table) ([]byte, error) {
	names, err := json.Marshal(t.FeatureNames)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(regimeNames))
	for i, r := range regimeNames {
		texts[i] = r.String()
	}
	regimes, err := json.Marshal(texts)
	if err != nil {
		return nil, err
	}
	metadata := arrow.MetadataFrom(map[string]string{
		"symbol": t.Symbol, "timeframe": t.Timeframe, "schema_version": t.SchemaVersion, "digest": t.Digest,
		"feature_names": string(names), "regimes": string(regimes),
	})
	schema := arrow.NewSchema([]arrow.Field{
		{Name: columnNames[0], Type: &arrow.TimestampType{Unit: arrow.Second, TimeZone: "UTC"}},
		{Name: columnNames[1], Type: arrow.PrimitiveTypes.Float64},
		{Name: columnNames[2], Type: arrow.PrimitiveTypes.Uint8},
		{Name: columnNames[3], Type: arrow.FixedSizeListOfNonNullable(int32(len(t.FeatureNames)), arrow.PrimitiveTypes.Float32)},
	}, &metadata)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	list := b.Field(3).(*array.FixedSizeListBuilder)
	for i, d := range t.Dates {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(d))
		b.Field(2).(*array.Uint8Builder).Append(uint8(t.Regimes[i]))
		list.Append(true)
	}
	b.Field(1).(*array.Float64Builder).AppendValues(t.Close, nil)
	list.ValueBuilder().(*array.Float32Builder).AppendValues(t.Features, nil)
	record := b.NewRecordBatch()
	defer record.Release()

	var out bytes.Buffer
	w, err := ipc.NewFileWriter(&out, ipc.WithSchema(schema))
	if err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	if err := errors.Join(w.Write(record), w.Close()); err != nil {
		return nil, fmt.Errorf("arrow: %w", err)
	}
	return out.Bytes(), nil
}

// Digest is the identity of a table's content as the Data Service defines it:
// the SHA-256 of these bytes in order, all numbers little-endian.
//
//	"trainyard-table\n" schema version "\n" symbol "\n" timeframe "\n" feature names joined by "," "\n"
//	number of bars (uint64), then all dates (int64 seconds), all closes
//	(float64), all regime codes (uint8), all features (float32, row-major)
func Digest(t *market.Table) string {
	h := sha256.New()
	buf := []byte("trainyard-table\n" + t.SchemaVersion + "\n" + t.Symbol + "\n" + t.Timeframe + "\n" + strings.Join(t.FeatureNames, ",") + "\n")
	flush := func(limit int) {
		if len(buf) >= limit {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	const full = 1 << 15
	buf = binary.LittleEndian.AppendUint64(buf, uint64(len(t.Dates)))
	for _, v := range t.Dates {
		buf = binary.LittleEndian.AppendUint64(buf, uint64(v))
		flush(full)
	}
	for _, v := range t.Close {
		buf = binary.LittleEndian.AppendUint64(buf, math.Float64bits(v))
		flush(full)
	}
	for _, v := range t.Regimes {
		buf = append(buf, uint8(v))
		flush(full)
	}
	for _, v := range t.Features {
		buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		flush(full)
	}
	flush(1)
	return hex.EncodeToString(h.Sum(nil))
}
