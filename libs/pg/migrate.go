package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Migrate creates the schema when it is missing and applies the goose migrations of
// migrations (*.sql at its root or in one directory) to it. Several processes may
// call it at once: an advisory lock per schema lets one work and the others find
// nothing to do. A database that is ahead of the migrations (an older binary after
// a rollback) is left as it is.
func Migrate(ctx context.Context, dsn, schema string, migrations fs.FS) (err error) {
	files, err := root(migrations)
	if err != nil {
		return err
	}
	cc, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("the Postgres connection string cannot be read; write it like postgres://user@host:5432/database")
	}
	cc.RuntimeParams["search_path"] = pgx.Identifier{schema}.Sanitize()
	cc.RuntimeParams["timezone"] = "UTC"
	cc.RuntimeParams["application_name"] = "trainyard-migrate-" + schema
	db := stdlib.OpenDB(*cc)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := waitReady(ctx, defaultWait, nil, db.PingContext); err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	if err := createSchema(ctx, db, schema); err != nil {
		return fmt.Errorf("create schema %s: %w", schema, err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID(schema)), lock.WithLockTimeout(1, 120))
	if err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	return nil
}

// root finds the directory of the *.sql files, so that callers can hand over an
// embed.FS of "migrations/*.sql" as it is.
func root(fsys fs.FS) (fs.FS, error) {
	var dir string
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".sql" {
			return err
		}
		dir = path.Dir(p)
		return fs.SkipAll
	})
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	if dir == "" {
		return nil, errors.New("no *.sql migration is embedded")
	}
	return fs.Sub(fsys, dir)
}

// createSchema takes no IF NOT EXISTS alone: two sessions can both pass it, and one
// then fails on the catalogue's own unique index.
func createSchema(ctx context.Context, db *sql.DB, schema string) error {
	_, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize())
	var pe *pgconn.PgError
	if errors.As(err, &pe) && (pe.Code == codeDuplicateSchema || pe.Code == codeUniqueViolation) {
		return nil
	}
	return err
}

func lockID(schema string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("trainyard migrations of " + schema))
	return int64(h.Sum64())
}
