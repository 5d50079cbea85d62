"""Image-level vision-language models behind one protocol, and the regions cut out for them."""
