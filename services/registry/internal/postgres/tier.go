package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Tier is what the database can do for metric points.
type Tier string

// Tiers. Every query of this package runs unchanged on all of them.
const (
	// TierPlain is Postgres alone: metric_points is a plain table.
	TierPlain Tier = "plain"
	// TierApache is TimescaleDB under its Apache licence: metric_points is a hypertable.
	TierApache Tier = "timescale-apache"
	// TierTSL is TimescaleDB with its full licence: chunks are compressed as well.
	TierTSL Tier = "timescale-tsl"
)

// chunkWeek is the span of a chunk: long enough that a run's points lie in few of them.
const chunkWeek = "7 days"

// PrepareTier finds the tier and brings metric_points to it. Only an extension that is
// already created in the database counts: creating one needs rights and a preloaded
// library that a service must not ask for. It is safe to repeat.
func (s *Store) PrepareTier(ctx context.Context) (Tier, error) {
	var schema, license string
	err := s.pool.QueryRow(ctx, `SELECT quote_ident(n.nspname), COALESCE(current_setting('timescaledb.license', true), '')
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'`).Scan(&schema, &license)
	if errors.Is(err, pgx.ErrNoRows) {
		return TierPlain, nil
	}
	if err != nil {
		return TierPlain, fmt.Errorf("detect storage tier: %w", err)
	}
	// Its functions are named with their schema: the search path has the registry's alone.
	if _, err := s.pool.Exec(ctx, `SELECT `+schema+`.create_hypertable('metric_points', `+schema+`.by_range('time', INTERVAL '`+chunkWeek+`'),
		if_not_exists => true, migrate_data => true)`); err != nil {
		return TierPlain, fmt.Errorf("make metric_points a hypertable: %w", err)
	}
	if license != "timescale" {
		return TierApache, nil
	}
	if _, err := s.pool.Exec(ctx, `ALTER TABLE metric_points SET (timescaledb.compress,
		timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'step, time')`); err != nil {
		return TierApache, fmt.Errorf("set compression: %w", err)
	}
	if _, err := s.pool.Exec(ctx, `SELECT `+schema+`.add_compression_policy('metric_points', INTERVAL '30 days', if_not_exists => true)`); err != nil {
		return TierApache, fmt.Errorf("add compression policy: %w", err)
	}
	return TierTSL, nil
}
