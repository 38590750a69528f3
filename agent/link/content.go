package link

import (
	"context"
	"slices"

	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

// Sources are the addresses of the gateways that content may be fetched from: first the one that the newest session is with, then the others
// that are known. It may be called from any goroutine.
func (l *Link) Sources() []string {
	all := l.known()
	if at := l.at.Load(); at != nil {
		if i := slices.Index(all, *at); i > 0 {
			all = append([]string{*at}, slices.Delete(all, i, i+1)...)
		}
	}
	return all
}

// Content opens a session for content with the gateway at an address. It may be called from any goroutine.
func (l *Link) Content(ctx context.Context, addr string) (*wirelink.Session, error) {
	to := l.target(addr)
	to.Options.Limits = wirelink.ContentLimits
	return wirelink.Open(ctx, l.dialer, to, func(s *wirelink.Session) (*wirelink.Session, error) { return s, nil })
}
