"""The measures of sparsejax, one file each; to add a measure, add a file."""
