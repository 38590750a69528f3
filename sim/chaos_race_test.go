//go:build race

package sim

// defaultSeeds is how many storms a run of the tests has: the race detector makes each many times as slow.
const defaultSeeds = 10

// conserveSeeds is how many worlds of TestConservation it has.
const conserveSeeds = 10

// lightSeeds is how many worlds of TestConservationLight it has.
const lightSeeds = 300

// cutDevices and cutHours are how large TestLongCut is.
const cutDevices, cutHours = 10, 1

// nearDevices is how many devices TestNearestGateway has.
const nearDevices = 1
