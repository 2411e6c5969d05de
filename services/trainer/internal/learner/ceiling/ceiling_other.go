//go:build !amd64

package ceiling

func available() []form { return nil }
