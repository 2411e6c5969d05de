package inventory

import (
	"path/filepath"
	"testing"
)

func TestRooms(t *testing.T) {
	t.Parallel()
	if u, err := FixedRoom(100)(80); err != nil || u.Fraction() != 0.8 {
		t.Errorf("got %+v %v", u, err)
	}
	if u, err := FixedRoom(0)(80); err != nil || u.Fraction() != 0 {
		t.Errorf("an unknown capacity is full: %+v %v", u, err)
	}
	if u, err := DiskRoom(t.TempDir())(0); err != nil || u.CapacityBytes <= 0 || u.UsedBytes < 0 || u.Fraction() > 1 {
		t.Errorf("got %+v %v", u, err)
	}
	if _, err := DiskRoom(filepath.Join(t.TempDir(), "absent"))(0); err == nil {
		t.Error("a disk that is not there has room")
	}
}
