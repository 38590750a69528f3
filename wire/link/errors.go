package link

import (
	"errors"
	"fmt"
	"math"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/wire"
)

// ErrClosed says that the session is over without a reason from the peer: lost, timed out, or reset by a peer that
// restarted.
var ErrClosed = errors.New("session is over")

// asError turns a peer's closing code into its *wire.Error, and every other end of a connection into ErrClosed. A connection that
// the peer refused before a handshake is both: busy, and over.
func asError(err error) error {
	if te, ok := errors.AsType[*quic.TransportError](err); ok && te.Remote && te.ErrorCode == quic.ConnectionRefused {
		return fmt.Errorf("%w: %w", ErrClosed, wire.Refuse(wire.CodeBusy, "the peer takes no connection now"))
	}
	var app *quic.ApplicationError
	if !errors.As(err, &app) {
		if isEnd(err) {
			return fmt.Errorf("%w: %w", ErrClosed, err)
		}
		return err
	}
	switch {
	case app.ErrorCode == 0:
		return fmt.Errorf("%w: closed", ErrClosed)
	case !app.Remote:
		return fmt.Errorf("%w: closed here: %s", ErrClosed, app.ErrorMessage)
	}
	// The peer chose both: a code of up to 62 bits, which must not become another one when it is cut, and any bytes.
	return wire.Refuse(wire.Code(min(app.ErrorCode, math.MaxUint32)), "%s", app.ErrorMessage)
}

// isEnd tells whether err, which is not an application's close, ends a connection or its control stream.
func isEnd(err error) bool {
	if errors.Is(err, quic.ErrTransportClosed) {
		return true
	}
	var (
		idle      *quic.IdleTimeoutError
		handshake *quic.HandshakeTimeoutError
		reset     *quic.StatelessResetError
		transport *quic.TransportError
		version   *quic.VersionNegotiationError
		stream    *quic.StreamError
	)
	return errors.As(err, &idle) || errors.As(err, &handshake) || errors.As(err, &reset) ||
		errors.As(err, &transport) || errors.As(err, &version) || errors.As(err, &stream)
}
