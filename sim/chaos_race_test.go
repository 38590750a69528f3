//go:build race

package sim

// defaultSeeds is how many storms a run of the tests has: the race detector makes each many times as slow.
const defaultSeeds = 10

// conserveSeeds is how many worlds of TestConservation it has.
const conserveSeeds = 10
