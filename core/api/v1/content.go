package v1

// AskContent asks which chunks the core lacks.
type AskContent struct {
	Digests []string `json:"digests" minItems:"1" maxItems:"4096" nullable:"false" doc:"SHA-256 of chunks, before they are compressed, in hexadecimal digits"`
}

// MissingContent says which chunks the core lacks.
type MissingContent struct {
	Missing []string `json:"missing" nullable:"false" doc:"those that are not on the disks of a majority of the core's nodes, in the order in which they were asked for"`
}

// StoredContent says what was stored.
type StoredContent struct {
	Stored int `json:"stored" doc:"chunks of the pack, all of which are on the disks of a majority of the core's nodes now"`
}

// AddArtifact makes an artifact known whose content the core has.
type AddArtifact struct {
	Manifest       string   `json:"manifest" doc:"the artifact's digest: SHA-256 of the manifest's bytes, in hexadecimal digits"`
	ManifestChunks []string `json:"manifest_chunks" minItems:"1" maxItems:"64" nullable:"false" doc:"digests of the chunks that the manifest's bytes are, in order: all but the last have 262,144 bytes"`
	Release        string   `json:"release" maxLength:"8192" doc:"the release, as its publisher signed it, in base64"`
}
