package load

import (
	"bytes"
	"crypto/sha256"
	"fmt"
)

// Values in the store have the length the drill asks for; the history names
// them by the part that makes them unique. filler never occurs in a name.
const filler = '~'

// pad makes the stored value of a name.
func pad(name string, size int) []byte {
	b := make([]byte, max(size, len(name)))
	for i := copy(b, name); i < len(b); i++ {
		b[i] = filler
	}
	return b
}

// unpad finds the name of a stored value. A value that pad never made, be it
// by one bit, gets a name that nobody has written.
func unpad(v []byte, size int) string {
	n := bytes.IndexByte(v, filler)
	if n < 0 {
		n = len(v)
	}
	if bytes.Equal(v, pad(string(v[:n]), size)) {
		return string(v[:n])
	}
	return fmt.Sprintf("damaged:%d bytes:%x", len(v), sha256.Sum256(v))
}
