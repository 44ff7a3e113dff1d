"""Export: a checkpoint becomes a bundle, admitted only through the parity gate."""
