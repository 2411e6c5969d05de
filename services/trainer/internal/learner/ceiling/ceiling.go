// Package ceiling measures what a core can do at most: chains of fused
// multiply-adds that touch nothing but registers. Figures of the learner stand
// beside it.
package ceiling

// form is one register width.
type form struct {
	name  string // as in package kernel
	flops int    // of one step
	loop  func(n int)
}

var forms = available()

// Flops takes n steps with registers of that width, and returns how many
// floating-point operations they were; 0 when this machine or build has no such
// registers.
func Flops(kernel string, n int) float64 {
	for _, f := range forms {
		if f.name == kernel && n > 0 {
			f.loop(n)
			return float64(f.flops) * float64(n)
		}
	}
	return 0
}
