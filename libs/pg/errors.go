package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes this package reads.
const (
	codeUniqueViolation     = "23505"
	codeForeignKeyViolation = "23503"
	codeCheckViolation      = "23514"
	codeExclusionViolation  = "23P01"
	codeSerialization       = "40001"
	codeDeadlock            = "40P01"
	codeAdminShutdown       = "57P01"
	codeCrashShutdown       = "57P02"
	codeCannotConnectNow    = "57P03"
	codeTooManyConnections  = "53300"
	codeDuplicateSchema     = "42P06"
	codeDuplicateDatabase   = "42P04"
)

// IsUnique reports that err is a violation of the named unique constraint or index;
// an empty name means any.
func IsUnique(err error, constraint string) bool {
	return violates(err, codeUniqueViolation, constraint)
}

// IsForeignKey reports that err is a violation of the named foreign key; an empty
// name means any.
func IsForeignKey(err error, constraint string) bool {
	return violates(err, codeForeignKeyViolation, constraint)
}

// IsCheck reports that err is a violation of the named CHECK constraint; an empty
// name means any. Checks mirror invariants of the pure packages: seeing one fail is
// a bug.
func IsCheck(err error, constraint string) bool {
	return violates(err, codeCheckViolation, constraint) || violates(err, codeExclusionViolation, constraint)
}

// IsNoRows reports that a query that must find a row found none.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

func violates(err error, code, constraint string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == code && (constraint == "" || pe.ConstraintName == constraint)
}

func isRetryable(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == codeSerialization || pe.Code == codeDeadlock)
}

// IsUnavailable reports that the server could not be reached, is starting or going
// down, or lost the connection: the same call may work later. When it comes from a
// commit the outcome is unknown; only an idempotent caller may try again.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch pe.Code {
		case codeAdminShutdown, codeCrashShutdown, codeCannotConnectNow, codeTooManyConnections:
			return true
		}
		return strings.HasPrefix(pe.Code, "08")
	}
	var ce *pgconn.ConnectError
	var ne net.Error
	return errors.As(err, &ce) || errors.As(err, &ne) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "conn closed")
}
