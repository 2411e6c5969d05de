package checkpointcodec

import "encoding/binary"

// split cuts numbers of the given width into planes: dst holds all first bytes,
// then all second bytes and so on. Bytes that do not fill a number follow last.
func split(dst, src []byte, width int) {
	n := len(src) / width
	switch width {
	case 4:
		p0, p1, p2, p3 := dst[:n], dst[n:2*n], dst[2*n:3*n], dst[3*n:4*n]
		for i := range n {
			v := binary.LittleEndian.Uint32(src[4*i:])
			p0[i], p1[i], p2[i], p3[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		}
	default:
		for k := range width {
			plane := dst[k*n : (k+1)*n]
			for i := range plane {
				plane[i] = src[i*width+k]
			}
		}
	}
	copy(dst[n*width:], src[n*width:])
}

// join is the inverse of split.
func join(dst, src []byte, width int) {
	n := len(dst) / width
	switch width {
	case 4:
		p0, p1, p2, p3 := src[:n], src[n:2*n], src[2*n:3*n], src[3*n:4*n]
		for i := range n {
			binary.LittleEndian.PutUint32(dst[4*i:], uint32(p0[i])|uint32(p1[i])<<8|uint32(p2[i])<<16|uint32(p3[i])<<24)
		}
	default:
		for k := range width {
			plane := src[k*n : (k+1)*n]
			for i, b := range plane {
				dst[i*width+k] = b
			}
		}
	}
	copy(dst[n*width:], src[n*width:])
}

// subtract writes the difference of numbers to a base of the same length. The
// difference of the bit patterns of two close floats is a small integer; folding
// its sign into the lowest bit (zigzag) keeps the upper bytes zero for negative
// ones too. Other widths than 4 take XOR, which loses little there.
func subtract(dst, src, base []byte, width int) {
	n := 0
	if width == 4 {
		n = len(src) / 4 * 4
		for i := 0; i < n; i += 4 {
			d := int32(binary.LittleEndian.Uint32(src[i:]) - binary.LittleEndian.Uint32(base[i:]))
			binary.LittleEndian.PutUint32(dst[i:], uint32(d<<1)^uint32(d>>31))
		}
	}
	for i := n; i < len(src); i++ {
		dst[i] = src[i] ^ base[i]
	}
}

// add is the inverse of subtract, in place over the difference.
func add(diff, base []byte, width int) {
	n := 0
	if width == 4 {
		n = len(diff) / 4 * 4
		for i := 0; i < n; i += 4 {
			z := binary.LittleEndian.Uint32(diff[i:])
			d := uint32(int32(z>>1) ^ -int32(z&1))
			binary.LittleEndian.PutUint32(diff[i:], binary.LittleEndian.Uint32(base[i:])+d)
		}
	}
	for i := n; i < len(diff); i++ {
		diff[i] ^= base[i]
	}
}
