//go:build race

package mirror

// bitStep samples the bits of a file: the race detector makes signatures fifty times as slow, and there is one goroutine.
const bitStep = 37
