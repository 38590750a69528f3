// Package tally sums up what happens too often for a record of its own: requests that were refused, and that operators were
// heard. Once a minute the sums become commands, so that the audit trail shows a flood of refusals as a few records, and the
// registry knows to about a minute when each operator was heard last.
//
// Note and Used never block on anything but a short lock and may be called from any goroutine. Memory is bounded, whoever
// calls: at most maxKeys sums are kept, and beyond them all go into one.
package tally

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/holdfast-edge/holdfast/core/command"
)

const (
	// Every is the time between two proposals of a Book: no entry of the log is made for sums more often.
	Every = time.Minute
	// LastTime bounds the proposals that Run makes at its end. It fits into the time that a node takes to stop.
	LastTime = 3 * time.Second

	// proposeTime bounds one round of proposals: longer than an election takes, shorter than Every.
	proposeTime = 30 * time.Second
	// maxKeys bounds the sums that are kept, and the operators that are remembered: at about 300 bytes each, one command with
	// all of them is a third of what an entry of the log may hold.
	maxKeys = 1000
	// maxText bounds each text of a sum, in bytes.
	maxText = 128
	// other stands for action and reason of what came when maxKeys sums were kept.
	other = "other"
)

// A Propose commits a command to the replicated log. An error means that it may have to be proposed again.
type Propose = func(ctx context.Context, c command.Command) (any, error)

// A key is what refusals are counted by. Sources are counted by the network that they are in, because whoever has one
// address has many.
type key struct{ action, actor, reason, network string }

// A Book counts refusals and notes uses, until Run proposes them.
type Book struct {
	wall func() time.Time
	log  *slog.Logger

	mu       sync.Mutex
	refusals map[key]*command.Refusal       // guarded by mu; Invariant: at most maxKeys keys and the one for others
	uses     map[string]command.OperatorUse // guarded by mu, by operator; Invariant: at most maxKeys
}

// New makes an empty book. Times are those of wall; log hears of proposals that did not succeed.
func New(wall func() time.Time, log *slog.Logger) *Book {
	return &Book{wall: wall, log: log, refusals: make(map[key]*command.Refusal), uses: make(map[string]command.OperatorUse)}
}

// Note counts one refusal. action is what was asked for: enroll, authenticate, or the id of an operation of the API. actor is
// who asked, as the audit trail writes it (operator:ID, token:ID), or empty. source is an address or a gateway's name, reason
// one of a few fixed words. Texts are cut to 128 bytes of what can be printed.
func (b *Book) Note(action, actor, source, reason string) {
	now := b.wall().UnixMilli()
	r := &command.Refusal{
		Action: clean(action), Actor: clean(actor), Source: clean(source), Reason: clean(reason), Count: 1, FirstMS: now, LastMS: now,
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(r)
}

// Used notes that an operator's request was served. source is the address that it came from.
func (b *Book) Used(operator, source string) {
	u := command.OperatorUse{ID: operator, AtMS: b.wall().UnixMilli(), Source: clean(source)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.use(u)
}

// add counts r in; the caller holds mu.
func (b *Book) add(r *command.Refusal) {
	k := key{r.Action, r.Actor, r.Reason, network(r.Source)}
	sum, ok := b.refusals[k]
	if !ok && len(b.refusals) >= maxKeys {
		k = key{action: other, reason: other}
		r.Action, r.Actor, r.Reason, r.Source = other, "", other, ""
		sum, ok = b.refusals[k]
	}
	if !ok {
		b.refusals[k] = r
		return
	}
	sum.Count += r.Count
	sum.FirstMS = min(sum.FirstMS, r.FirstMS)
	if r.LastMS >= sum.LastMS {
		sum.LastMS, sum.Source = r.LastMS, r.Source
	}
}

// use keeps the newer of what is known of an operator and u; the caller holds mu.
func (b *Book) use(u command.OperatorUse) {
	old, ok := b.uses[u.ID]
	if ok && old.AtMS > u.AtMS || !ok && len(b.uses) >= maxKeys {
		return
	}
	b.uses[u.ID] = u
}

// Run proposes what is in the book once every minute, and once more when ctx ends, then within LastTime. What could not be
// proposed stays in the book; when nobody can tell whether a proposal took effect it is made again, so that a refusal may be
// counted twice and none is lost. node is the name that the records carry.
func (b *Book) Run(ctx context.Context, propose Propose, node string) {
	t := time.NewTicker(Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			b.flush(ctx, proposeTime, propose, node)
		case <-ctx.Done():
			b.flush(context.WithoutCancel(ctx), LastTime, propose, node)
			return
		}
	}
}

// flush proposes all that is in the book within a time.
func (b *Book) flush(ctx context.Context, within time.Duration, propose Propose, node string) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	refusals, uses := b.take()
	if len(refusals) > 0 {
		if _, err := propose(ctx, &command.Refusals{Node: node, Items: refusals}); err != nil {
			b.log.Warn("refusals not put on the audit trail, kept for the next time", "sums", len(refusals), "err", err)
			b.keepRefusals(refusals)
		}
	}
	if len(uses) > 0 {
		if _, err := propose(ctx, &command.OperatorsUsed{Items: uses}); err != nil {
			b.log.Warn("uses of operators not noted, kept for the next time", "operators", len(uses), "err", err)
			b.keepUses(uses)
		}
	}
}

// take empties the book. Both lists are in an order of their own, so that the same sums make the same command.
func (b *Book) take() ([]command.Refusal, []command.OperatorUse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	refusals := make([]command.Refusal, 0, len(b.refusals))
	for _, r := range b.refusals {
		refusals = append(refusals, *r)
	}
	slices.SortFunc(refusals, func(x, y command.Refusal) int {
		return cmp.Or(cmp.Compare(x.FirstMS, y.FirstMS), cmp.Compare(x.Action, y.Action), cmp.Compare(x.Actor, y.Actor),
			cmp.Compare(x.Reason, y.Reason), cmp.Compare(x.Source, y.Source))
	})
	uses := slices.SortedFunc(maps.Values(b.uses), func(x, y command.OperatorUse) int { return cmp.Compare(x.ID, y.ID) })
	clear(b.refusals)
	clear(b.uses)
	return refusals, uses
}

func (b *Book) keepRefusals(refusals []command.Refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range refusals {
		b.add(&refusals[i])
	}
}

func (b *Book) keepUses(uses []command.OperatorUse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range uses {
		b.use(u)
	}
}

// clean makes a text fit for a command: a command whose text is not UTF-8 would not read again, on any node.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// network is the network of an address, which is the /24 of IPv4 and the /48 of IPv6, or the source as it is when it is no
// address.
func network(source string) string {
	a, err := netip.ParseAddr(source)
	if err != nil {
		return source
	}
	bits := 48
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return source
	}
	return p.String()
}
