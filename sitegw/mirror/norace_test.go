//go:build !race

package mirror

// bitStep turns every bit.
const bitStep = 1
