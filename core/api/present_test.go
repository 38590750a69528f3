package api

import (
	"reflect"
	"testing"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Tags made from what is decoded already are those that the registry makes.
func TestTagsOf(t *testing.T) {
	value := "operator's"
	for bits := range 8 {
		own, token, operator := map[string]string{"own": "1"}, map[string]string{"token": "1"}, map[string]*string{"operator": &value}
		if bits&1 != 0 {
			own["x"], own[wire.TagSite] = "own", "elsewhere"
		}
		if bits&2 != 0 {
			token["x"], token["own"] = "token", "token"
		}
		if bits&4 != 0 {
			operator["x"], operator["own"], operator["token"] = &value, nil, nil
		}
		facts, err := wire.Marshal(&seal.Register{Tags: own})
		if err != nil {
			t.Fatal(err)
		}
		d := &registry.Device{Site: "plant-7", Facts: facts, TokenTags: token, OperatorTags: operator}
		if got, want := tagsOf(d, d.Registered().Tags), d.Tags(); !reflect.DeepEqual(got, want) {
			t.Errorf("%03b: got %v, want %v", bits, got, want)
		}
	}
}
