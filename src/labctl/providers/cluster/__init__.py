"""The provider for a cluster that is there already: labctl adds a namespace with pods, and changes nothing else."""
