"""Tools of the documentation site: blocks of commands, recorded output, generated pages, images."""
