package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

const maxFile = 512 << 10 // bytes of a stored context

// A Context is what login stores.
type Context struct {
	URL   string `yaml:"url"`
	Token string `yaml:"token"`
	CA    string `yaml:"ca"` // PEM
	// Fleet and Operator say whose context it is. They are for readers of the file.
	Fleet    string `yaml:"fleet,omitempty"`
	Operator string `yaml:"operator,omitempty"`
	// Nodes are the API addresses of the core's nodes, the one that worked last in front, as they were at NodesAt by the core's
	// clock. A context of an earlier version has none.
	Nodes   []string  `yaml:"nodes,omitempty"`
	NodesAt time.Time `yaml:"nodes_at,omitempty"`
}

// Load reads the stored context. A file that does not exist is the zero Context. open says that other users can read the
// token in it. Errors wrap ErrConfig.
func Load(path string) (c Context, open bool, err error) {
	b, err := durable.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, false, nil
	}
	if err != nil {
		return Context{}, false, bad("stored context: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Context{}, false, bad("stored context: %w", err)
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		// The decoder's words quote the file, and with it perhaps the token.
		return Context{}, false, bad("%s does not hold a context; run holdfast login again", path)
	}
	return c, c.Token != "" && othersCanRead(info.Mode()), nil
}

// Save stores the context, readable by its owner alone. After an error the former context stands.
func Save(path string, c Context) error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the context: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return bad("store the context: %w", err)
	}
	if err := durable.WriteFile(path, b, 0o600); err != nil {
		return bad("store the context: %w", err)
	}
	return nil
}
