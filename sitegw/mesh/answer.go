package mesh

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What one sibling can make this gateway hand out. One that has no way to the core asks every minAsk at most.
const (
	answersPerSecond = 0.2
	answersAtOnce    = 5
	questionTime     = 5 * time.Second
	answerTime       = 2 * askTime // for the sibling to take it all
)

// answers is how often siblings may still ask.
type answers struct {
	mu sync.Mutex
	of map[string]*rate.Limiter
}

func (a *answers) allow(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.of[name]
	if !ok {
		l = rate.NewLimiter(answersPerSecond, answersAtOnce)
		a.of[name] = l
	}
	return l.Allow()
}

// Facts serves a sibling that asks for facts about the site. It needs no site key: who asks is on the list.
func (m *Mesh) Facts(ctx context.Context, from string, conn net.Conn) {
	if !m.isListed(from) || !m.answers.allow(from) {
		return
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it was given up
	defer unhook()
	conn.SetWriteDeadline(time.Now().Add(answerTime))  //nolint:errcheck // ctx ends it as well
	conn.SetReadDeadline(time.Now().Add(questionTime)) //nolint:errcheck // likewise
	t, body, err := wire.NewFrameReader(conn, wire.TypeMirrorAsk.Limit()).Next()
	if err != nil || t != wire.TypeMirrorAsk {
		return
	}
	var q wire.MirrorAsk
	if wire.Unmarshal(body, &q) != nil {
		return
	}
	var p wire.MirrorPage
	if list, stamp := m.Mirror.List(); stamp.Compare(seal.Stamp{ClusterEpoch: q.ListEpoch, Number: q.List}) > 0 {
		p.List = list
	}
	rest := m.Mirror.Newer(seal.Stamp{ClusterEpoch: q.AfterEpoch, Number: q.After})
	for {
		p.Entries, p.Orders, rest = page(rest)
		p.More = len(rest) > 0
		frame, err := wire.AppendFrame(nil, wire.TypeMirrorPage, p)
		if err != nil {
			m.Log.Error("facts for a sibling do not encode", "gateway", from, "err", err)
			return
		}
		if _, err := conn.Write(frame); err != nil || !p.More {
			return
		}
		p = wire.MirrorPage{}
	}
}

// maxPage bounds the entries and orders of a page, in bytes, so that their frame is within its limit with a list beside them.
const maxPage = 512 << 10

// page takes the first entries off, with their orders.
func page(all []mirror.Signed) (entries, orders [][]byte, rest []mirror.Signed) {
	size := 0
	for i, s := range all {
		size += len(s.Sealed) + len(s.Order)
		if i == wire.MaxPage || size > maxPage {
			return entries, orders, all[i:]
		}
		entries = append(entries, s.Sealed)
		if s.Order != nil {
			orders = append(orders, s.Order)
		}
	}
	return entries, orders, nil
}
