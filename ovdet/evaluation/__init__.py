"""Average precision by subset: base, novel, all; rare, common and frequent for LVIS."""
