package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/etcdrill/etcdrill/lab"
)

// How a file of a store is packed is said by the end of its name: NAME.db, and
// behind it .zst when it is compressed, and .age when it is encrypted.
const (
	zstdExt = ".zst"
	ageExt  = ".age"
)

// Packing is how a snapshot is kept. The sidecar beside it is never encrypted:
// whoever can read the store knows how many keys there are, and how they begin.
type Packing struct {
	Compress   bool     // by zstd
	Recipients []string // age public keys, any of whose owners can read it; none: it is not encrypted
}

// Valid refuses recipients that are none.
func (p Packing) Valid() error {
	_, err := p.recipients()
	return err
}

func (p Packing) recipients() ([]age.Recipient, error) {
	if len(p.Recipients) == 0 {
		return nil, nil
	}
	out, err := age.ParseRecipients(strings.NewReader(strings.Join(p.Recipients, "\n")))
	if err != nil {
		return nil, fmt.Errorf("recipients: %w: expected age public keys, such as age1…", err)
	}
	return out, nil
}

// Ext is how the name of what is packed ends.
func (p Packing) Ext() (ext string) {
	if p.Compress {
		ext += zstdExt
	}
	if len(p.Recipients) > 0 {
		ext += ageExt
	}
	return ext
}

// pack copies from one file to another, a new one.
func (p Packing) pack(to io.Writer, from io.Reader) error {
	to, seal, err := p.Writer(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, seal())
}

// Writer is what packs what is written to it; seal ends it, from the inside
// out.
func (p Packing) Writer(w io.Writer) (packed io.Writer, seal func() error, err error) {
	var ends []io.Closer
	recipients, err := p.recipients()
	if err != nil {
		return nil, nil, err
	}
	if len(recipients) > 0 {
		enc, err := age.Encrypt(w, recipients...)
		if err != nil {
			return nil, nil, err
		}
		w, ends = enc, append(ends, enc)
	}
	if p.Compress {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		w, ends = z, append(ends, z)
	}
	return w, func() error {
		for i := range ends {
			if err := ends[len(ends)-1-i].Close(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// Unpacked reads what was packed as it was before; its name ends as Ext says, and
// kind is the word for it in a finding, such as snapshot. identity is the file
// with the secret keys on this machine, empty for none. What cannot be
// read with these keys is a *lab.Failure; and so is, later, a file that is
// damaged: by the error of Read, see notWhole.
func Unpacked(kind, name string, r io.Reader, identity string) (io.Reader, error) {
	if inner, ok := strings.CutSuffix(name, ageExt); ok {
		ids, err := identities(identity)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, &lab.Failure{What: kind + " " + name, Want: "an identity to read it with (identity: a file of age secret keys)", Got: "an encrypted file and no key"}
		}
		dec, err := age.Decrypt(r, ids...)
		var none *age.NoIdentityMatchError
		switch {
		case errors.As(err, &none):
			return nil, &lab.Failure{What: kind + " " + name, Want: "one of its recipients' keys", Got: "others: it was encrypted for somebody else"}
		case err != nil:
			return nil, notWhole(kind, name, err)
		}
		name, r = inner, dec
	}
	if strings.HasSuffix(name, zstdExt) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return r, nil
}

// notWhole is the finding that a packed file cannot be unpacked.
func notWhole(kind, name string, err error) error {
	return &lab.Failure{What: kind + " " + name, Want: "a file that can be unpacked", Got: err.Error()}
}

// identities reads age secret keys. A file that others may read is refused.
func identities(file string) ([]age.Identity, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("identity: %s: mode %04o, others may read it: expected 0600", file, mode)
	}
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("identity: %s: expected age secret keys: %w", file, errors.New("it holds something else")) // its content is no word for a log
	}
	return ids, nil
}
