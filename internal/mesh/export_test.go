package mesh

// Remembered is how many services the snapshot's meshes remember, and how many of
// them are known to hold in it without another look at them.
func (s *Snapshot) Remembered() (services, holding int) {
	for _, t := range s.meshes {
		t.memo.mu.RLock()
		for _, held := range t.memo.services {
			services++
			if held.in.stamp == t.stamp() {
				holding++
			}
		}
		t.memo.mu.RUnlock()
	}
	return services, holding
}

// Sources is how many routers and nodes services are remembered to come from.
func (s *Snapshot) Sources() (n int) {
	for _, t := range s.meshes {
		t.memo.mu.RLock()
		n += len(t.memo.from)
		t.memo.mu.RUnlock()
	}
	return n
}
