// Package content keeps what artifacts consist of on each node of the core: chunks by digest, on the node's own disk ([Store]), the same
// on all nodes ([Keeper]).
//
// # Store
//
// A chunk that Put has taken is on the disk, under its digest, and survives a power cut. It is held against its digest before it is
// stored, and against a checksum whenever it is read: what does not verify is moved aside under the name of its file, with an error in the
// log, and counts as missing. The store takes at most its quota. It drops nothing but what Sweep is told to: chunks that nothing refers
// to, and that nobody has put or asked for as a sender since a given time.
//
// # Keeper
//
// Put is through when a majority of the nodes have the chunks on their disks. A node that is asked for a chunk which it lacks gets it
// from another. What registered artifacts refer to and a node lacks it fetches in the background.
//
// # What is collected
//
// A chunk that an artifact refers to is never removed, also when the artifact is registered at that moment: whoever registers one asks the
// nodes first whether they hold its chunks, and each node counts that as a touch of the chunks that it holds. Such a request is through
// within two minutes, or it never takes effect. A node removes only what was not touched for the grace time (hours), and looks for
// references after a read barrier that it begins after it chose what it would remove. So, of two things one: the touch was within the
// grace time, and the chunk stays; or what registered the artifact is older than the barrier, and the node sees the reference. A node that
// starts counts all of its chunks as touched. A node that cannot read the manifest of a registered artifact removes nothing.
//
// All methods may be called from several goroutines. The file format is described in docs/content-format.md.
package content
