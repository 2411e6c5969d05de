package ceiling

import "golang.org/x/sys/cpu"

//go:noescape
func loopAVX512(n int)

//go:noescape
func loopAVX2(n int)

// chains is how many multiply-adds wait for nothing: two a cycle, four cycles long,
// and room beyond.
const chains = 12

func available() []form {
	var out []form
	if cpu.X86.HasAVX512F {
		out = append(out, form{"avx512", chains * 16 * 2, loopAVX512})
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		out = append(out, form{"avx2", chains * 8 * 2, loopAVX2})
	}
	return out
}
