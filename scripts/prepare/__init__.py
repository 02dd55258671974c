"""Records in, data set out: load, clean, decontaminate, measure, de-duplicate, split, register, report."""
