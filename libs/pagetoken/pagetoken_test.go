package pagetoken

import (
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cursor := rapid.SliceOfN(rapid.String().Filter(utf8.ValidString), 1, 4).Draw(t, "cursor")
		hash := FilterHash(rapid.SliceOf(rapid.String()).Draw(t, "filter")...)
		got, err := Decode(hash, Encode(hash, cursor...), len(cursor))
		if err != nil || !slices.Equal(got, cursor) {
			t.Fatalf("%q came back as %q, %v", cursor, got, err)
		}
	})
}

func TestRefusesForeignTokens(t *testing.T) {
	t.Parallel()
	mine := FilterHash("queued", "tenant-a")
	for name, token := range map[string]string{
		"another filter":   Encode(FilterHash("queued", "tenant-b"), "1"),
		"shifted boundary": Encode(FilterHash("queuedtenant", "-a"), "1"),
		"short cursor":     Encode(mine),
		"long cursor":      Encode(mine, "1", "2"),
		"not base64":       "%%%",
		"not JSON":         "aGVsbG8",
	} {
		if _, err := Decode(mine, token, 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if c, err := Decode(mine, "", 1); c != nil || err != nil {
		t.Errorf("the empty token is the first page; got %v, %v", c, err)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[int32]int{-5: 50, 0: 50, 7: 7, 1000: 1000, 5000: 1000} {
		if got := Size(in, 50, 1000); got != want {
			t.Errorf("Size(%d) = %d, want %d", in, got, want)
		}
	}
}
