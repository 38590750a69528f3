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
// # Catching up
//
// A node that fell far behind gets a snapshot of the replicated state instead of the log, and lacks the records in between. [Store.Skip] opens
// a gap for them: nothing can be read, but records behind it are appended as ever, to a store of their own in a sub-folder. What peers
// [Store.Export] is appended to the segments before the gap by [Store.Fill], as if it had come from the log. The replicated state says how
// many records there must be and what their chain is; only when that is so does the gap close, and what was appended meanwhile is moved
// behind it. Otherwise everything is cut back to where the gap began. So a gap leaves no trace: afterwards the files are those of a node
// that never missed anything. A gap survives restarts and power cuts at any point.
//
// # Calls
//
// All methods may be called from several goroutines. Append and Sync take turns, but the disk's part of a Sync runs beside Append; starting
// a new segment waits for a running Sync. Reads never wait for the disk's part of either. A read sees every record whose Append returned
// before it began, synced or not, and never a part of one. Fill and Skip take turns too; Append waits for a chunk to be written, and at the
// end of a gap for what was appended while the rest of it was moved, but not for that rest. Skip can wait for a whole Fill.
//
// A failed write or sync is fatal to the store: what the disk holds is then unknown, so this and every later call returns an error that
// wraps [ErrFailed]. Restart the process; Open finds out what is there. Damage found while reading is a [*CorruptError]; a damaged record
// is never handed out.
//
// The file format is described in docs/history-format.md.
package history
