"""Lists of pictures: the files of tables, the text of CSV, and the addresses in them."""
