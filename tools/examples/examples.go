// Package examples has job files to start from; the demo submits the specialists.
package examples

import "embed"

// Specialists are the names of the demo's job files, without ".yaml".
var Specialists = []string{"bull", "bear", "sideways"}

// Files has every example by its file name.
//
//go:embed *.yaml
var Files embed.FS
