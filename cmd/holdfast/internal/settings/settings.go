// Package settings decides which core the CLI talks to, and as whom: the stored context, over it the environment, over that
// the flags. Bearer tokens come from files and standard input only, since command lines and environments are seen by others.
package settings

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

// The environment that Resolve and Path read.
const (
	EnvURL       = "HOLDFAST_URL"
	EnvCAFile    = "HOLDFAST_CA_FILE"
	EnvTokenFile = "HOLDFAST_TOKEN_FILE" //nolint:gosec // the name of a variable that holds a file's name
	EnvConfig    = "HOLDFAST_CONFIG"
)

const (
	maxCA    = 256 << 10 // bytes of a CA file
	maxToken = 4 << 10   // bytes of a token file
)

// ErrConfig is every error of this package: something is missing, unreadable or not what it should be. Their texts say what
// to do about it.
var ErrConfig = errors.New("bad configuration")

// A configError is ErrConfig without saying so again: its text is the reason alone.
type configError struct{ error }

func (configError) Is(target error) bool { return target == ErrConfig }
func (e configError) Unwrap() error      { return e.error }

func bad(format string, args ...any) error { return configError{fmt.Errorf(format, args...)} }

// Overrides are what the environment or the flags say. An empty field says nothing.
type Overrides struct {
	URL       string
	CAFile    string // PEM
	TokenFile string // a file, or - for standard input
}

// FromEnv reads the overrides of the environment.
func FromEnv(env func(string) string) Overrides {
	return Overrides{URL: env(EnvURL), CAFile: env(EnvCAFile), TokenFile: env(EnvTokenFile)}
}

// Over is o where it says something, and under elsewhere.
func (o Overrides) Over(under Overrides) Overrides {
	pick := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return Overrides{
		URL: pick(o.URL, under.URL), CAFile: pick(o.CAFile, under.CAFile), TokenFile: pick(o.TokenFile, under.TokenFile),
	}
}

// A Target is a core and the right to talk to it.
type Target struct {
	URL   *url.URL
	Nodes []*url.URL     // of the core's nodes, the first to ask in front; URL is one of them
	CA    string         // PEM
	Roots *x509.CertPool // the certificates in CA
	Token string
}

// Resolve completes o from the stored context and checks the result. stdin is read when the token file is -. The stored token
// goes only where the stored CA vouches for the server: with another CA it needs a token file too. Errors wrap ErrConfig and
// never hold the token.
func Resolve(o Overrides, stored Context, stdin io.Reader) (Target, error) {
	var t Target
	var err error
	var nodes []string // who names an address means that one alone
	if o.URL == "" {
		o.URL, nodes = stored.URL, stored.Nodes
	}
	if t.URL, err = parseURL(o.URL); err != nil {
		return Target{}, err
	}
	t.Nodes = withNodes(t.URL, nodes)
	if t.CA, err = readCA(o.CAFile, stored.CA); err != nil {
		return Target{}, err
	}
	if t.Roots, err = parseCA(t.CA); err != nil {
		return Target{}, err
	}
	switch {
	case o.TokenFile != "":
		t.Token, err = readToken(o.TokenFile, stdin)
	case stored.Token == "":
		err = bad("no operator's token; run holdfast login, or give --token-file or %s", EnvTokenFile)
	case !sameCA(t.CA, stored.CA):
		err = bad("the stored token belongs to another CA; give --token-file or %s too", EnvTokenFile)
	default:
		t.Token, err = checkToken([]byte(stored.Token), "the stored context")
	}
	if err != nil {
		return Target{}, err
	}
	return t, nil
}

func parseURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, bad("no core to talk to; run holdfast login https://HOST:PORT, or give --url or %s", EnvURL)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Path != "" && u.Path != "/") {
		return nil, bad("%q is no core's address; write https://HOST:PORT", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// Authorities are the certificates of the CA file that o names, or else of the stored CA, as PEM. Errors wrap ErrConfig.
func Authorities(o Overrides, stored Context) ([]*x509.Certificate, error) {
	text, err := readCA(o.CAFile, stored.CA)
	if err != nil {
		return nil, err
	}
	return certificates(text)
}

// readCA is the PEM in file, or the stored one when file is empty.
func readCA(file, stored string) (string, error) {
	if file == "" && stored == "" {
		return "", bad("no CA to trust; run holdfast login, or give --ca-file or %s", EnvCAFile)
	}
	if file == "" {
		return stored, nil
	}
	b, err := durable.ReadFile(file, maxCA)
	if err != nil {
		return "", bad("CA file: %w", err)
	}
	return string(b), nil
}

func parseCA(text string) (*x509.CertPool, error) {
	certs, err := certificates(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

func certificates(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, bad("CA: PEM block %d is no certificate: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, bad("CA: no PEM certificate in it; give the core's ca.pem")
	}
	return certs, nil
}

// sameCA compares the certificates of two PEM texts that parse.
func sameCA(a, b string) bool {
	if a == b {
		return true
	}
	x, errA := parseCA(a)
	y, errB := parseCA(b)
	return errA == nil && errB == nil && x.Equal(y)
}

// readToken reads a bearer token from a file, or from stdin for "-".
func readToken(file string, stdin io.Reader) (string, error) {
	if file == "-" {
		b, err := io.ReadAll(io.LimitReader(stdin, maxToken+1))
		if err != nil {
			return "", bad("token from standard input: %w", err)
		}
		return checkToken(b, "standard input")
	}
	b, err := durable.ReadFile(file, maxToken)
	if err != nil {
		return "", bad("token file: %w", err)
	}
	return checkToken(b, file)
}

// checkToken trims b and refuses what could not stand in a header. It names where, never the token.
func checkToken(b []byte, where string) (string, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", bad("no token in %s", where)
	}
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return "", bad("%s holds no token; one line of printable ASCII is expected", where)
		}
	}
	if len(b) > maxToken {
		return "", bad("the token in %s is over %d bytes", where, maxToken)
	}
	return string(b), nil
}

// Path is where the context is stored: $HOLDFAST_CONFIG, or .config/holdfast/config.yaml in the home directory.
func Path(env func(string) string) (string, error) {
	if p := env(EnvConfig); p != "" {
		return p, nil
	}
	home := env("HOME")
	if home == "" {
		home = env("USERPROFILE")
	}
	if home == "" {
		return "", bad("no home directory for the stored context; set %s to a file", EnvConfig)
	}
	return filepath.Join(home, ".config", "holdfast", "config.yaml"), nil
}

// othersCanRead tells whether a file holding a token is open to other users.
func othersCanRead(m os.FileMode) bool { return m.Perm()&0o077 != 0 }
