package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

const (
	// maxNodes bounds the addresses that are kept: a core has 1, 3 or 5 nodes.
	maxNodes = 16
	// nodesAge is how long a list of nodes is taken for good; smallAge, one of fewer than usualNodes: such a core is growing, or
	// too small to survive its next failure, and either is worth a request now and then.
	nodesAge   = 24 * time.Hour
	smallAge   = 5 * time.Second
	usualNodes = 3
)

// withNodes are the addresses to try: those that are stored, and u, which comes last where the list lacks it. What does not
// read as an address is left out: a list is advice, and u alone will do.
func withNodes(u *url.URL, stored []string) []*url.URL {
	var out []*url.URL
	for _, s := range stored[:min(len(stored), maxNodes)] {
		if n, err := parseURL(s); err == nil {
			out = append(out, n)
		}
	}
	if !slices.ContainsFunc(out, func(n *url.URL) bool { return n.Host == u.Host }) {
		out = append(out, u)
	}
	return out
}

// Nodes are the addresses https://HOST:PORT of the API addresses (host:port) that a core tells, with the one that worked in
// front. Addresses that nobody else can reach, such as 0.0.0.0:8443, and those over the bound of 16 are left out.
func Nodes(worked string, told []string) []string {
	out := []string{worked}
	for _, addr := range told {
		host, _, err := net.SplitHostPort(addr)
		if err != nil || host == "" || len(out) == maxNodes {
			continue
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			continue
		}
		u, err := parseURL("https://" + addr)
		if err != nil || slices.Contains(out, u.String()) {
			continue
		}
		out = append(out, u.String())
	}
	return out
}

// Stale tells whether the list of nodes should be read again. now is the core's time.
func (c *Context) Stale(now time.Time) bool {
	age := now.Sub(c.NodesAt)
	return age >= nodesAge || len(c.Nodes) < usualNodes && age >= smallAge || age < 0
}

// errReplaced says that the stored context is no longer the one that was loaded.
var errReplaced = errors.New("the stored context was replaced meanwhile")

// SaveNodes stores a list of nodes, read at now by the core's clock, with the context that was loaded before. A context that
// somebody replaced meanwhile, by logging in elsewhere, is left as it is. Errors wrap ErrConfig.
func SaveNodes(path string, loaded Context, nodes []string, now time.Time) error {
	c, _, err := Load(path)
	if err != nil {
		return err
	}
	if c.URL != loaded.URL || c.Token != loaded.Token || c.CA != loaded.CA {
		return bad("store the core's nodes: %w", errReplaced)
	}
	c.Nodes, c.NodesAt = nodes, now
	if err := Save(path, c); err != nil {
		return fmt.Errorf("store the core's nodes: %w", err)
	}
	return nil
}
