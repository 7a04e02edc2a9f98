"""The zoo: real architectures at small sizes, with weights under which every branch matters."""
