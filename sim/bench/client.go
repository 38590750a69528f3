package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

// errAPI is an answer of the API that is no success.
var errAPI = errors.New("the API refused")

// maxAnswer bounds an answer of the API, in bytes.
const maxAnswer = 1 << 20

// request is one of the API's. in may be nil.
type request struct {
	method, path string
	in           any
}

// openClient makes the client of the operators' API, with what init left for the operator in the first node's directory.
func (w *world) openClient(dir string) error {
	bearer, err := os.ReadFile(filepath.Join(dir, "admin.token")) //nolint:gosec // G304: our own directory
	if err != nil {
		return fmt.Errorf("operator's token: %w", err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem")) //nolint:gosec // G304: our own directory
	if err != nil {
		return fmt.Errorf("fleet's root: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	w.bearer = strings.TrimSpace(string(bearer))
	w.api = &http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}},
	}
	return nil
}

// ask asks a core node's API and decodes its answer into out; nil: it is read and dropped.
func (w *world) ask(ctx context.Context, out any, node *coreNode, bearer string, r request) (err error) {
	var body io.Reader
	if r.in != nil {
		b, err := json.Marshal(r.in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "https://"+node.API+r.path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if r.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := w.api.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %w: %d %s", r.method, r.path, errAPI, res.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// askers is how many operators one client speaks for in turn: the API serves each of them 200 requests a second, and one
// client that never pauses sends more.
const askers = 10

// operators makes so many and waits until every node knows them.
func (w *world) operators(ctx context.Context) ([]string, error) {
	bearers := make([]string, askers)
	for i := range bearers {
		var o v1.NewOperator
		in := v1.CreateOperator{Name: fmt.Sprintf("bench-%d", i), Role: "operator"}
		if err := w.call(ctx, &o, http.MethodPost, "/v1/operators", in); err != nil {
			return nil, err
		}
		bearers[i] = o.Token
	}
	// A node that does not know a token yet asks the leader, but only a few times.
	return bearers, w.awaitVoters(ctx)
}
