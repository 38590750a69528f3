// Package history keeps the records that applying the replicated log produced: what happened to a device, a site, a gateway or the fleet,
// and who ordered it. It is an append-only store on the node's own disk; nothing in it is ever changed.
//
// Records are keyed by the log index that produced them. Appending is idempotent: after a restart the log is applied again from the last
// snapshot, and records that are stored already are passed over. That is why Append does not sync: the log holds every record that a crash
// can take away, as long as [Store.Sync] returned nil before the log is cut. Whoever takes a snapshot of the replicated state must call it
// first.
//
// Two stores that were given the same records since their first one hold the same bytes in the same files, however the records were
// batched and however often the stores were restarted. Sealed segments carry a SHA-256 so that nodes can compare them. The condition is
// that both were opened with the same [Options.SegmentBytes].
//
// # Calls
//
// All methods may be called from several goroutines. Append and Sync take turns, but the disk's part of a Sync runs beside Append; starting
// a new segment waits for a running Sync. Reads never wait for the disk's part of either. A read sees every record whose Append returned
// before it began, synced or not, and never a part of one.
//
// A failed write or sync is fatal to the store: what the disk holds is then unknown, so this and every later call returns an error that
// wraps [ErrFailed]. Restart the process; Open finds out what is there. Damage found while reading is a [*CorruptError]; a damaged record
// is never handed out.
//
// The file format is described in docs/history-format.md.
package history
