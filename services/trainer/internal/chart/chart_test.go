package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"testing"
)

func panels() []Panel {
	wave := make([]float64, 5000)
	for i := range wave {
		wave[i] = math.Sin(float64(i) / 300)
	}
	wave[17], wave[2500] = math.NaN(), 9
	return []Panel{
		{Title: "Equity & <more>", X: "bar", Y: "times", Lines: []Line{{Name: "ours", Y: wave}, {Name: "held", Y: []float64{1, 2, 3}, Thin: true}}, Labels: map[int]string{1: "2001-01", 5000: "2019-12"}},
		{Title: "Positions", Lines: []Line{{Name: "position", Y: []float64{-1, 0, 1, 1}, Step: true}, {Name: "nothing"}}},
	}
}

func TestPicturesAreSoundAndRepeat(t *testing.T) {
	t.Parallel()
	first, err := PNG(panels())
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(first))
	if err != nil || picture.Bounds().Dx() < 600 || picture.Bounds().Dy() < 400 {
		t.Fatalf("%v, %v", picture.Bounds(), err)
	}
	again, err := PNG(panels())
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same panels gave another picture, %v", err)
	}
	element, err := SVG(panels())
	if err != nil || len(element) > 300_000 {
		t.Fatalf("%d bytes, %v", len(element), err)
	}
	for range 20 {
		if again, err := SVG(panels()); err != nil || !bytes.Equal(element, again) {
			t.Fatalf("the same panels gave another element, %v", err)
		}
	}
	for d := xml.NewDecoder(bytes.NewReader(element)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the SVG is no XML: %v", err)
		}
	}
}

// TestExtremesSurvive: a long curve keeps the one spike that people look for.
func TestExtremesSurvive(t *testing.T) {
	t.Parallel()
	line := panels()[0].Lines[0]
	points, spike := line.points(), false
	for _, p := range points {
		spike = spike || p.Y == 9 && p.X == 2501
	}
	if len(points) > maxPoints || !spike {
		t.Errorf("%d points, the spike is there: %v", len(points), spike)
	}
}
