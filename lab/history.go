package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"
)

// Outcome is what a client knows about its operation.
type Outcome string

const (
	OK      Outcome = "ok"      // acknowledged
	Refused Outcome = "refused" // certainly not done
	Unknown Outcome = "unknown" // may have happened, may still happen: FC6
)

// The kinds of Op.
const (
	OpPut    = "put"
	OpDelete = "delete"
	OpTxn    = "txn"    // compare-and-put: Prev is the value compared with, "" = key absent
	OpGet    = "get"    // linearizable unless Serializable
	OpEvent  = "event"  // a watcher got an event: Call = Return = arrival
	OpWatch  = "watch"  // a watcher began (Revision = from), or ended (Error says how)
	OpFinal  = "final"  // one key of the final full read; Key empty: the read itself
	OpMarker = "marker" // the last write of a run, closes the history
)

// The clients of a load are numbered from 1. What else speaks for it has a
// number below 1; watchers are numbered downwards from ClientWatcher.
const (
	ClientCloser      = 0   // marker and final read
	ClientWriteProber = -1  // open loop, measures write outages
	ClientReadProber  = -2  // open loop, measures read outages
	ClientWatcher     = -10 // the first watcher
)

// Op is one line of history.jsonl: one operation as one client saw it.
// Times are nanoseconds since the run began, monotonic.
type Op struct {
	Client       int     `json:"c"`
	Kind         string  `json:"k"`
	Key          string  `json:"key,omitempty"`
	Value        string  `json:"v,omitempty"` // written, or read ("" = not there); what a txn found whose comparison failed
	Prev         string  `json:"p,omitempty"`
	Call         int64   `json:"b"`
	Return       int64   `json:"e"`           // when the client gave up, for Unknown
	Due          int64   `json:"u,omitempty"` // when it should have been called, where that was earlier: latency counts from here
	Outcome      Outcome `json:"o"`
	Swapped      bool    `json:"s,omitempty"`   // txn: the comparison held
	Serializable bool    `json:"ser,omitempty"` // read that may be stale
	Revision     int64   `json:"r,omitempty"`   // of the answer's header
	Mod          int64   `json:"m,omitempty"`   // mod_revision of the key read, or of the event
	Deleted      bool    `json:"d,omitempty"`   // event: a deletion; delete: there was something to delete
	Member       string  `json:"at,omitempty"`  // seat it was sent to, empty = any
	Error        string  `json:"err,omitempty"`
}

// History records operations, as lines of JSON, in the order they returned.
// It is safe for concurrent use and buffers, for at most about a second while
// operations come in; Close flushes.
type History struct {
	mu      sync.Mutex
	start   time.Time
	f       *os.File
	w       *bufio.Writer
	line    []byte
	flushed int64
	err     error
}

// NewHistory makes the file, which must not exist.
func NewHistory(path string, start time.Time) (*History, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &History{start: start, f: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

// Now is the time for Op.Call and Op.Return.
func (h *History) Now() int64 { return int64(time.Since(h.start)) }

// Add records an operation that has returned.
func (h *History) Add(op Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line = append(appendOp(h.line[:0], &op), '\n')
	_, err := h.w.Write(h.line)
	if err == nil && op.Return-h.flushed > int64(time.Second) {
		// What a killed run knew about its last second is worth a write.
		h.flushed, err = op.Return, h.w.Flush()
	}
	if err != nil && h.err == nil {
		h.err = err
	}
}

// Close flushes and returns the first error met.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.err, h.w.Flush(), h.f.Close())
}

// ReadHistory reads history.jsonl, see ReadEvents.
func ReadHistory(path string) ([]Op, error) {
	d := opDecoder{words: map[string]string{}}
	return readLinesWith(path, d.decode)
}

// appendOp writes what json.Marshal would, several times faster: clients
// record while they measure.
func appendOp(b []byte, o *Op) []byte {
	b = append(b, `{"c":`...)
	b = strconv.AppendInt(b, int64(o.Client), 10)
	b = appendString(append(b, `,"k":`...), o.Kind)
	if o.Key != "" {
		b = appendString(append(b, `,"key":`...), o.Key)
	}
	if o.Value != "" {
		b = appendString(append(b, `,"v":`...), o.Value)
	}
	if o.Prev != "" {
		b = appendString(append(b, `,"p":`...), o.Prev)
	}
	b = strconv.AppendInt(append(b, `,"b":`...), o.Call, 10)
	b = strconv.AppendInt(append(b, `,"e":`...), o.Return, 10)
	if o.Due != 0 {
		b = strconv.AppendInt(append(b, `,"u":`...), o.Due, 10)
	}
	b = appendString(append(b, `,"o":`...), string(o.Outcome))
	if o.Swapped {
		b = append(b, `,"s":true`...)
	}
	if o.Serializable {
		b = append(b, `,"ser":true`...)
	}
	if o.Revision != 0 {
		b = strconv.AppendInt(append(b, `,"r":`...), o.Revision, 10)
	}
	if o.Mod != 0 {
		b = strconv.AppendInt(append(b, `,"m":`...), o.Mod, 10)
	}
	if o.Deleted {
		b = append(b, `,"d":true`...)
	}
	if o.Member != "" {
		b = appendString(append(b, `,"at":`...), o.Member)
	}
	if o.Error != "" {
		b = appendString(append(b, `,"err":`...), o.Error)
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if !plain(s[i]) {
			q, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always marshals
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// plain tells which bytes stand for themselves in a JSON string as
// encoding/json writes it.
func plain(c byte) bool {
	return c >= ' ' && c < 0x7f && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

// opDecoder reads lines that appendOp wrote, without reflection. Whatever it
// does not know at first sight it leaves to encoding/json, so that it never
// reads anything else than that would.
type opDecoder struct {
	words map[string]string // every string once: keys and values come back in reads and events
}

func (d *opDecoder) decode(line []byte, o *Op) error {
	if d.fast(line, o) {
		return nil
	}
	*o = Op{}
	return json.Unmarshal(line, o)
}

func (d *opDecoder) fast(b []byte, o *Op) bool {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return false
	}
	b = b[1 : len(b)-1]
	for first := true; len(b) > 0; first = false {
		if !first {
			if b[0] != ',' {
				return false
			}
			b = b[1:]
		}
		name, rest, ok := cutString(b)
		if !ok || len(rest) < 2 || rest[0] != ':' {
			return false
		}
		b = rest[1:]
		var text *string
		var number *int64
		var truth *bool
		var client int64
		switch string(name) {
		case "c":
			number = &client
		case "k":
			text = &o.Kind
		case "key":
			text = &o.Key
		case "v":
			text = &o.Value
		case "p":
			text = &o.Prev
		case "b":
			number = &o.Call
		case "e":
			number = &o.Return
		case "u":
			number = &o.Due
		case "o":
			text = (*string)(&o.Outcome)
		case "s":
			truth = &o.Swapped
		case "ser":
			truth = &o.Serializable
		case "r":
			number = &o.Revision
		case "m":
			number = &o.Mod
		case "d":
			truth = &o.Deleted
		case "at":
			text = &o.Member
		case "err":
			text = &o.Error
		default:
			return false
		}
		switch {
		case text != nil:
			s, rest, ok := cutString(b)
			if !ok {
				return false
			}
			b = rest
			known, ok := d.words[string(s)]
			if !ok {
				known = string(s)
				d.words[known] = known
			}
			*text = known
		case number != nil:
			if b, ok = cutInt(b, number); !ok {
				return false
			}
			if string(name) == "c" {
				o.Client = int(client)
			}
		case len(b) >= 4 && string(b[:4]) == "true":
			*truth, b = true, b[4:]
		default:
			return false
		}
	}
	return true
}

// cutString takes a quoted string of plain bytes off b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[1:i], b[i+1:], true
		case c < ' ' || c >= 0x7f || c == '\\':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// cutInt takes an integer of at most 18 digits off b.
func cutInt(b []byte, to *int64) (rest []byte, ok bool) {
	i, n := 0, int64(0)
	if len(b) > 0 && b[0] == '-' {
		i = 1
	}
	from := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if i-from == 18 {
			return nil, false
		}
		n = n*10 + int64(b[i]-'0')
	}
	if i == from || b[from] == '0' && i-from > 1 {
		return nil, false
	}
	if from == 1 {
		n = -n
	}
	*to = n
	return b[i:], true
}
