package witness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrNone says that a data directory has no witness: no head has been kept there.
var ErrNone = errors.New("no head of the audit trail is kept here")

// Print writes the heads kept in a data directory to out, oldest first, as lines of JSON (see Line). A gateway may be running
// there: a line that is being written is left out. The first line carries the certificate of the authority that signed them,
// as DER and unless nil, so that whoever has the fleet's root can verify them all. The error is ErrNone when there is no head.
func Print(out io.Writer, dir string, authority []byte) error {
	n := 0
	err := eachLine(Path(dir), func(raw []byte) error {
		var l Line
		if _, err := parse(raw, &l); err != nil {
			return nil //nolint:nilerr // what does not read is no evidence
		}
		n++
		if n == 1 && authority != nil {
			return json.NewEncoder(out).Encode(struct {
				Line
				Authority []byte `json:"authority"`
			}{l, authority})
		}
		_, err := out.Write(raw)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || err == nil && n == 0 {
		return fmt.Errorf("%s: %w: it appears about a minute after the gateway first reached a core node that keeps an audit trail", Path(dir), ErrNone)
	}
	return err
}
