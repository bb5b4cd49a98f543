"""From what was recorded on the wire to something a learner can read."""
