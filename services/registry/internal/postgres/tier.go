package postgres

import (
	"context"
	"fmt"
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
	var present bool
	var license string
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'),
		COALESCE(current_setting('timescaledb.license', true), '')`).Scan(&present, &license)
	if err != nil {
		return TierPlain, fmt.Errorf("detect storage tier: %w", err)
	}
	if !present {
		return TierPlain, nil
	}
	if _, err := s.pool.Exec(ctx, `SELECT create_hypertable('metric_points', by_range('time', INTERVAL '`+chunkWeek+`'),
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
	if _, err := s.pool.Exec(ctx, `SELECT add_compression_policy('metric_points', INTERVAL '30 days', if_not_exists => true)`); err != nil {
		return TierApache, fmt.Errorf("add compression policy: %w", err)
	}
	return TierTSL, nil
}
